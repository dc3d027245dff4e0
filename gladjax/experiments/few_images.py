"""Are weights of every position's own worth having, where images are few?

    python -m gladjax.experiments.few_images --data-root DIR \
        --categories transistor toothbrush screw --seeds 0 1 2 --output OUT

Local weights are counts, and of few images they are noise. For 10, 30 and 100 training
images a detector with the default settings is fitted, and scores the test images with
its local weights and with the global ones in their place. The rule of the default
(`gladjax.detector.layers.kept`) chooses between the two by the training images alone:
local weights, if at least half of what they tell of the images that they were counted
from holds for images left out. Expected: the choice within half a point of the better
of the two.

Notation: ``m`` training images.

Differs from the reference in: (1) the paper's weights are always local.

Reference: Artola, Kolodziej, Morel, Ehret. "GLAD". WACV 2023, section 3.2.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from gladjax.detector import fitting, layers
from gladjax.experiments import contamination, rows, runner, study
from gladjax.experiments.runner import Record
from gladjax.experiments.sources import Source
from gladjax.experiments.study import Case

BOTH = ("local", "global")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the study.

    Args:
      arguments: The command line; the process's own by default.

    Raises:
      SystemExit: With a message, if the data or the options do not fit.
    """
    parser = rows.parser("few_images", "Local or global weights, with few images.")
    parser.set_defaults(paper=False)
    add = parser.add_argument
    add("--numbers", nargs="+", type=int, default=[10, 30, 100], help="images")
    study.run(parser.parse_args(arguments), _rows, table, notes=notes)


def _rows(case: Case) -> None:
    chosen = runner.settings(case.options)
    source = rows.features(case.options, case.dataset, case.net)
    count = len(case.dataset.train)
    for seed in case.options.seeds:
        for number in case.options.numbers:
            if number > count:
                continue
            numbers = np.random.default_rng(seed).permutation(count)[:number]

            def make(numbers: np.ndarray = numbers, seed: int = seed) -> Record:
                return _record(source, case, np.sort(numbers), seed)

            settings = {**dataclasses.asdict(chosen), "images": number}
            study.row(case, "local or global", seed, settings, make)


def _record(source: Source, case: Case, numbers: np.ndarray, seed: int) -> Record:
    """Measures local and global weights of one fit, and says which the rule chooses."""
    chosen = runner.settings(case.options)
    blank, learnt, images = contamination.learn(source, numbers, chosen, seed=seed)
    fitted, _, share = fitting.settled(blank, learnt)
    bad = np.array([record.label == 1 for record in case.dataset.test])
    test = len(case.dataset.train) + np.arange(len(bad))
    everywhere = {name: layers.spread(one, chosen) for name, one in learnt.items()}
    found: Record = {"kept": share, "chosen": BOTH[not fitted.settings.local]}
    for name, parts in zip(BOTH, (learnt, everywhere), strict=True):
        one = {layer: part.layer for layer, part in parts.items()}
        whole = dataclasses.replace(blank, layers=one)
        complete = contamination.finished(whole, parts, images)
        found[name] = contamination.measure(source, complete, test, bad)
    return found


def loss(record: Record) -> float:
    """Returns how much image AUROC the choice gives away, 0 where it is the better one.

    Args:
      record: A row.
    """
    best = max(record[name]["image_auroc"] for name in BOTH)
    return best - record[record["chosen"]]["image_auroc"]


def table(records: Sequence[Record]) -> list[list[str]]:
    """Returns a row for each category, number of images and seed.

    Args:
      records: The rows of all categories and seeds.
    """
    head = ["category", "images", "seed", "local", "global", "holds", "chosen", "lost"]
    out = [head]
    for record in records:
        cells = [record["category"], str(record["settings"]["images"])]
        cells.append(str(record["seed"]))
        cells += [runner.percent(record[name]["image_auroc"]) for name in BOTH]
        cells += [f"{record['kept']:.2f}", record["chosen"]]
        out.append([*cells, f"{100 * loss(record):.2f}"])
    return out


def notes(records: Sequence[Record]) -> str:
    """Says what the rule gives away, and what either weights would everywhere.

    Args:
      records: The rows of all categories and seeds.
    """
    if not records:
        return ""
    each = [100 * loss(record) for record in records]
    always = [
        max(100 * loss({**record, "chosen": name}) for record in records)
        for name in BOTH
    ]
    return (
        f"The choice gives away {max(each):.2f} points at most, "
        f"{np.mean(each):.2f} in the mean; local weights everywhere {always[0]:.2f} "
        f"at most, global ones {always[1]:.2f}."
    )


if __name__ == "__main__":
    main()
