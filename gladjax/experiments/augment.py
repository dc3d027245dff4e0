"""Are turned and mirrored copies worth learning from, where images are few?

    python -m gladjax.experiments.augment --data-root DIR \
        --categories screw transistor --numbers 30 --seeds 0 1 2 --output OUT

For every number of training images a detector with the default settings is fitted to
them, to them and their mirror images, to their quarter turns and mirror images, and as
the default decides by the training images alone (`gladjax.detector.augment`). Expected:
better where things lie anyhow, worse where a part that is turned is a defect, and the
default never worse than images as they are.

Notation: ``m`` training images.

Differs from the reference in: (1) the paper learns from images as they are.

Reference: Artola, Kolodziej, Morel, Ehret. "GLAD". WACV 2023.
"""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from gladjax import detector, images, metrics
from gladjax.detector.augment import COPIED, KINDS
from gladjax.experiments import rows, runner, study
from gladjax.experiments.runner import Record
from gladjax.experiments.study import Case


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the study.

    Args:
      arguments: The command line; the process's own by default.

    Raises:
      SystemExit: With a message, if the data or the options do not fit.
    """
    parser = rows.parser("augment", "Copies of few images.")
    parser.set_defaults(paper=False)
    add = parser.add_argument
    add("--numbers", nargs="+", type=int, default=[10, 30], help="images")
    study.run(parser.parse_args(arguments), _rows, table)


def _rows(case: Case) -> None:
    chosen = runner.settings(case.options)
    count = len(case.dataset.train)
    for seed in case.options.seeds:
        for number in case.options.numbers:
            if number > count:
                continue
            numbers = np.sort(np.random.default_rng(seed).permutation(count)[:number])
            for kind in KINDS:
                one = dataclasses.replace(chosen, augment=kind)

                def make(
                    one: detector.Settings = one,
                    numbers: np.ndarray = numbers,
                    seed: int = seed,
                ) -> Record:
                    return _record(case, one, numbers, seed)

                settings = {**dataclasses.asdict(one), "images": number}
                study.row(case, kind or "as they are", seed, settings, make)


def _record(
    case: Case, settings: detector.Settings, numbers: np.ndarray, seed: int
) -> Record:
    """Measures one fit."""
    train = [case.dataset.train[i].image for i in numbers]
    fitted, info = detector.fit_info(
        jax.random.key(seed),
        case.net,
        images.Lazy(train),
        settings=settings,
        folds=detector.FOLDS,
    )
    labels = np.array([record.label for record in case.dataset.test])
    scores = runner.image_scores(fitted, [r.image for r in case.dataset.test])
    return {
        "image_auroc": metrics.auroc(labels, scores),
        "local": fitted.settings.local,
        "kept": info.kept,
        "likelier": info.likelier,
        "fit_seconds": sum(info.seconds.values()),
    }


def table(records: list[Record]) -> list[list[str]]:
    """Returns the study's table: a row for each category, number and seed.

    Args:
      records: The records.
    """
    lines = [["category", "images", "seed", "as they are", *COPIED, "auto"]]
    lines[0] += ["holds", "likelier"]
    keys = {(r["category"], r["settings"]["images"], r["seed"]): None for r in records}
    for key in keys:
        own = {
            r["settings"]["augment"]: r
            for r in records
            if (r["category"], r["settings"]["images"], r["seed"]) == key
        }
        values = [
            f"{100 * own[kind]['image_auroc']:.2f}" if kind in own else "-"
            for kind in ("", *COPIED, "auto")
        ]
        auto = own.get("auto", {})
        values += [
            "-" if auto.get(name) is None else f"{auto[name]:.2f}"
            for name in ("kept", "likelier")
        ]
        lines.append([*map(str, key), *values])
    return lines


if __name__ == "__main__":
    main()
