"""How many components? Chosen on pasted defects, with many images and few.

    python -m gladjax.experiments.num_components --data-root DIR \
        --categories transistor toothbrush screw --output OUT

A model of four fifths of the training images, or of some of them, is fitted with each
number of components. It tells the held-out fifth from copies with a pasted defect, four
recipes (`gladjax.experiments.held_out`), and the number that tells them best wins.
Beside it stand the likelihood of the held-out images, by which one would choose without
defects, and what the models give on the test images. That column is a study: it looks
at test labels, and nothing is chosen by it. Expected: pasted defects ask for more
components the more images there are; the likelihood asks for fewer on textures, and for
more where images are few.

Notation: ``K0`` components to start from, 0 for one for every 256 cells
(`gladjax.staged.number`).

Differs from the reference in: (1) the held-out images; (2) the numbers tried.

Reference: Artola, Kolodziej, Morel, Ehret. "GLAD". WACV 2023, section 4.2, supplement.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from gladjax import metrics
from gladjax.datasets import Dataset
from gladjax.experiments import held_out, rows, runner, sources, stages, study
from gladjax.experiments.evaluation import METRIC_SIZE
from gladjax.experiments.held_out import SHOWN
from gladjax.experiments.runner import Record
from gladjax.experiments.sources import Prepare, Source
from gladjax.experiments.study import Case


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the study.

    Args:
      arguments: The command line; the process's own by default.

    Raises:
      SystemExit: With a message, if the data or the options do not fit.
    """
    parser = rows.parser("num_components", "How many components?")
    parser.set_defaults(paper=False)
    add = parser.add_argument
    add("--numbers", nargs="+", type=int, default=[0, 25, 50, 100, 200])
    add("--images", nargs="+", type=int, default=[0, 30, 10], help="0: four fifths")
    study.run(parser.parse_args(arguments), _visit, table, notes=notes)


def _visit(case: Case) -> None:
    for seed in case.options.seeds:
        made, paste = held_out.pasted(case.dataset, seed=seed, recipes=SHOWN)
        own, count = len(made.test), len(made.train)
        both = dataclasses.replace(made, records=(*made.records, *case.dataset.test))

        def prepare(
            part: str,
            number: int,
            image: np.ndarray,
            own: int = own,
            paste: Prepare = paste,
        ) -> np.ndarray:
            real = part == "test" and number >= own
            return image if real else paste(part, number, image)

        source = rows.features(
            case.options, both, case.net, prepare=prepare, prepared=f"shown {seed}"
        )
        for images in case.options.images:
            if images <= count:
                order = np.random.default_rng(seed).permutation(count)
                some = np.sort(order[: images or count])
                part = sources.subset(source, some, test="test", name=f"of {seed}")
                _compare(case, (made, part), seed, images)


def _compare(case: Case, shown: tuple[Dataset, Source], seed: int, images: int) -> None:
    """Computes the rows of a seed and a number of images."""
    made, source = shown
    layers = source.blank.backbone.layers
    for number in case.options.numbers:
        chosen = runner.settings(case.options)
        chosen = dataclasses.replace(chosen, num_components=number)
        recipe = stages.Recipe(chosen, seed)
        settings = rows.described(recipe, local=True, layers=layers)

        def make(recipe: stages.Recipe = recipe) -> Record:
            return _record(case.dataset, made, source, recipe)

        study.row(case, f"K0 = {number}", seed, {**settings, "images": images}, make)


def _record(
    real: Dataset, made: Dataset, source: Source, recipe: stages.Recipe
) -> Record:
    """Measures a fit on pasted defects, on real ones, and by likelihood."""
    names = source.blank.backbone.layers
    layers = {name: stages.fit_layer(source, name, recipe) for name in names}
    maps = {name: layer.log_maps for name, layer in layers.items()}
    scores, *_ = sources.summarise(source, maps, shape=METRIC_SIZE)
    own = len(made.test)
    good = sum(record.label == 0 for record in made.test)
    labels = np.array([record.label for record in real.test])
    info = {name: layer.info for name, layer in layers.items()}
    return {
        "num_components": {k: v["num_components"] for k, v in info.items()},
        "fit_seconds": sum(v["seconds"] + v["weights_seconds"] for v in info.values()),
        "pasted": held_out.told(made, scores[:own]),
        "held_out": held_out.likelihood(source, layers, first=good),
        "image_auroc": metrics.auroc(labels, scores[own:]),
    }


def notes(records: Sequence[Record]) -> str:
    """Says which number is the best with so many images, and which with all of these.

    Args:
      records: All rows.
    """
    lines = []
    for title, group in [*_groups(records).items(), ("any number of images", records)]:
        if group:
            best = [f"{_name(choose(group, by=by))} by {by}" for by in (PASTED, LIKELY)]
            lines.append(f"With {title}: {', '.join(best)}.")
    lines.append("The column of the test images is a study; nothing is chosen by it.")
    return "\n".join(lines)


PASTED, LIKELY = "pasted defects", "held-out likelihood"


def choose(records: Sequence[Record], *, by: str = PASTED) -> int:
    """Returns the number of the best mean.

    Args:
      records: The rows; their AUROCs on test images are not looked at.
      by: What tells, `PASTED` or `LIKELY`.

    Returns:
      One of the numbers that most rows were fitted with: means over different
      categories do not compare.
    """
    value = pasted if by == PASTED else (lambda record: record["held_out"])
    known = {n: len({_place(r) for r in _of(records, n)}) for n in _numbers(records)}
    most = [n for n, count in known.items() if count == max(known.values())]
    return max(most, key=lambda n: _mean(value(r) for r in _of(records, n)))


def pasted(record: Record) -> float:
    """Returns the mean AUROC on pasted defects of a row."""
    return _mean(record["pasted"].values())


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def _place(record: Record) -> tuple[str, str]:
    return record["category"], _title(record)


def _title(record: Record) -> str:
    images = record["settings"]["images"]
    return f"{images} images" if images else "four fifths of the images"


def _groups(records: Sequence[Record]) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(_title(record), []).append(record)
    return found


def _name(number: int) -> str:
    return str(number) if number else "one for 256 cells"


def _numbers(records: Sequence[Record]) -> list[int]:
    return sorted({record["settings"]["num_components"] for record in records})


def _of(records: Sequence[Record], number: int) -> list[Record]:
    return [r for r in records if r["settings"]["num_components"] == number]


def table(records: Sequence[Record]) -> list[list[str]]:
    """Returns a row for each category, number of images and of components; then means.

    Args:
      records: The rows of all categories and seeds.
    """
    head = ["category", "images", "K0", "seeds", "components", "pasted, mean"]
    head += ["held-out nats / cell", "image AUROC, test (study)", "fit s"]
    out = [head]
    for title, group in _groups(records).items():
        for category in [*dict.fromkeys(r["category"] for r in group), "mean"]:
            for number in _numbers(group):
                own = _of(group, number)
                if category != "mean":
                    own = [r for r in own if r["category"] == category]
                if own:
                    out.append([category, title, _name(number), *_cells(own)])
    return out


def _cells(records: Sequence[Record]) -> list[str]:
    kept = ["/".join(str(n) for n in r["num_components"].values()) for r in records]
    return [
        " ".join(str(seed) for seed in sorted({r["seed"] for r in records})),
        kept[0] if len(set(kept)) == 1 else "-",
        runner.percent(_mean(pasted(r) for r in records)),
        f"{_mean(r['held_out'] for r in records):.2f}",
        runner.percent(_mean(r["image_auroc"] for r in records)),
        f"{_mean(r['fit_seconds'] for r in records):.1f}",
    ]


if __name__ == "__main__":
    main()
