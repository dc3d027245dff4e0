"""GLAD and others on images that are turned and shifted: the paper's Table 4.

    python -m gladjax.experiments.randomised --data-root DIR --seeds 0 1 2 3 4 \
        --output OUT

Each seed is one randomised version of a category (`gladjax.datasets.randomised`):
training and test images are turned by any angle (``--max-angle 10``: by up to ten
degrees) and shifted by up to 4 % of the side, and masks with them. GLAD aligns
(Euclidean motions, after a search over all angles), the others and ``glad, not
aligned`` see the images as they are. The row of the original images stands above. A
category of the paper that is not there is named as not run. Expected: without alignment
every method falls by several points, GLAD with alignment by the least; about five
minutes per category and version on a core.

Notation: a version is a seed.

Differs from the reference in: (1) the size of the motions, which the paper does not
name; (2) see `gladjax.datasets.randomised`.

Reference: Artola, Kolodziej, Morel, Ehret. "GLAD". WACV 2023, section 4.4, Table 4.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax
import numpy as np

from gladjax import backbone as backbones
from gladjax import datasets
from gladjax.datasets import Dataset, randomised
from gladjax.experiments import comparison, paper, rows, runner, study
from gladjax.experiments.evaluation import METRIC_SIZE
from gladjax.experiments.runner import Record
from gladjax.experiments.sources import Prepare
from gladjax.experiments.study import Case

ALIGNED = "glad"
PLAIN = "glad, not aligned"
METHODS = (ALIGNED, PLAIN, "mahaad", "padim", "patchcore", "cflow")
DEFAULT = METHODS[:4]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the experiment.

    Args:
      arguments: The command line; the process's own by default.

    Raises:
      SystemExit: With a message, if the data or the options do not fit.
    """
    parser = rows.parser(
        "randomised",
        "Robustness to pose (Table 4); --seeds are versions.",
        categories=paper.randomised_categories(),
    )
    comparison.add_options(parser, methods=METHODS, default=DEFAULT)
    parser.add_argument(
        "--max-angle", type=float, default=180.0, help="either way, in degrees"
    )
    options = parser.parse_args(arguments)
    study.run(options, _versions, table)


def _versions(case: Case) -> None:
    for version in (None, *case.options.seeds):
        _version(case, version)


def _version(case: Case, version: int | None) -> None:
    """Computes the rows of one version of a category; None is the original."""
    options, _, dataset, net = case
    prepare, masks, name = None, None, ""
    if version is not None:
        prepare, masks = moved(dataset, version, max_angle=options.max_angle)
        name = f"randomised {version}"
        if options.max_angle != 180:
            name += f" by {options.max_angle:g} degrees"
    for method in options.methods:
        plain = dataclasses.replace(runner.settings(options), motion="", coarse=False)
        turned = dataclasses.replace(plain, motion="euclidean", coarse=True)
        source = rows.features(
            options,
            dataset,
            net,
            chosen=turned if method == ALIGNED else plain,
            prepare=prepare,
            prepared=name,
        )
        comparison.compare(
            case,
            source,
            "glad" if method == PLAIN else method,
            version or 0,
            masks=masks,
            name=method,
        )


def moved(
    dataset: Dataset, version: int, *, max_angle: float = 180.0
) -> tuple[Prepare, np.ndarray | None]:
    """Returns how the images of a version are moved, and the moved masks.

    Args:
      dataset: The data set.
      version: Which version.
      max_angle: Largest turn either way, in degrees.

    Returns:
      A function of split, number and image, and masks ``(n, 256, 256)``; None where
      there are none.
    """
    keys = jax.random.split(jax.random.key(version))
    motions = {
        split: np.asarray(
            randomised.draw(
                key, len(records), METRIC_SIZE, max_angle=math.radians(max_angle)
            )
        )
        for split, key, records in zip(
            ("train", "test"), keys, (dataset.train, dataset.test), strict=True
        )
    }

    def prepare(split: str, number: int, image: np.ndarray) -> np.ndarray:
        resized = backbones.resize(np.asarray(image), size=METRIC_SIZE)
        pixels = np.asarray(resized, np.float32)
        return np.asarray(randomised.apply(pixels, motions[split][number])[0])

    if not dataset.has_masks:
        return prepare, None
    masks = [
        randomised.apply_mask(datasets.read_mask(record, shape=METRIC_SIZE), motion)
        for record, motion in zip(dataset.test, motions["test"], strict=True)
    ]
    return prepare, np.stack([np.asarray(mask) for mask in masks])


def table(records: Sequence[Record]) -> list[list[str]]:
    """Returns a row for each category and method, and the paper's means.

    Args:
      records: The rows of all versions.
    """
    head = ["category", "method", "backbone", "original", "randomised", "fall"]
    head += ["versions", "pixel AUROC", "align ms"]
    out = [head]
    for category in dict.fromkeys(record["category"] for record in records):
        for method in METHODS:
            own = [
                r
                for r in records
                if r["category"] == category and r["method"] == method
            ]
            first = [r for r in own if "version" not in r["settings"]]
            others = [r for r in own if "version" in r["settings"]]
            if first and others:
                out.append([category, method, *_cells(first[-1], others)])
    blank = [""] * (len(head) - 3)
    run = {record["category"] for record in records}
    missing = [name for name in paper.randomised_categories() if name not in run]
    out += [[name, rows.NOT_RUN, "", *blank] for name in missing]
    for method in ("glad", "mahaad", "padim", "cflow", "draem"):
        pair = [paper.randomised_auroc(method, v) for v in ("normal", "random")]
        cells = [runner.percent(value) for value in (*pair, pair[0] - pair[1])]
        out.append(["mean of seven", method, "the paper's", *cells, "5", "", ""])
    return out


def _cells(first: Record, others: Sequence[Record]) -> list[str]:
    found = [record["image_auroc"] for record in others]
    fall = first["image_auroc"] - sum(found) / len(found)
    align = [record["seconds_per_image"]["align"] for record in others]
    return [
        first["backbone"],
        runner.percent(first["image_auroc"]),
        rows.cell(found),
        runner.percent(fall),
        str(len(others)),
        rows.cell(record["pixel_auroc"] for record in others),
        f"{1000 * sum(align) / len(align):.0f}",
    ]


if __name__ == "__main__":
    main()
