"""With and without alignment, by kind of defect: does aligning repair what is wrong?

    python -m gladjax.experiments.aligned --data-root DIR --categories transistor \
        --motion euclidean --output OUT

A part that lies askew must stay found after everything was aligned. Each category is
fitted twice, as it is and aligned, and the image AUROC of each kind of defect against
the good test images stands side by side. Expected on transistor: "misplaced" within
half a point.

Notation: none.

Differs from the reference in: there is none; the paper aligns and does not compare.

Reference: Artola et al., "GLAD", WACV 2023, Section 4.1.
"""

import argparse
import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np

from gladjax import backbone as backbones
from gladjax import datasets, files, metrics
from gladjax.backbone import Backbone
from gladjax.datasets import Dataset
from gladjax.detector import Settings
from gladjax.experiments import runner
from gladjax.experiments.evaluation import Evaluation
from gladjax.experiments.runner import Record


def by_kind(dataset: Dataset, result: Evaluation) -> dict[str, float]:
    """Returns the image AUROC of each kind of defect against all good test images.

    Args:
      dataset: The data set.
      result: The scores of its test images.
    """
    kinds = np.array([record.kind for record in dataset.test])
    good = result.labels == 0
    found = {}
    for kind in dict.fromkeys(kinds[~good].tolist()):
        chosen = good | (kinds == kind)
        found[kind] = metrics.auroc(result.labels[chosen], result.scores[chosen])
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the comparison.

    Args:
      arguments: The command line; the process's own by default.

    Raises:
      SystemExit: With a message, if the data or the options do not fit.
    """
    parser = argparse.ArgumentParser(
        prog="python -m gladjax.experiments.aligned", description="Aligned or not."
    )
    parser.add_argument("--data-root", type=Path, required=True, help="data folder")
    parser.add_argument("--categories", nargs="+", required=True, help="their names")
    runner.add_options(parser)
    parser.set_defaults(motion="euclidean")
    options = parser.parse_args(arguments)
    with runner.errors():
        network = backbones.load(options.backbone, checkpoint=options.checkpoint)
        moved = runner.settings(options)
        plain = dataclasses.replace(moved, motion="", coarse=False)
        records = runner.load_records(options.output)
        wanted = []
        for category in options.categories:
            data = datasets.load(
                "mvtec",
                root=options.data_root,
                category=category,
                skip_bad=options.skip_bad,
                require_masks=options.require_masks,
            )
            for seed in options.seeds:
                for settings in (plain, moved):
                    chosen = dataclasses.asdict(settings)
                    key = runner.identity(data, network, "glad", seed, chosen)
                    make = functools.partial(_fit, data, network, seed, settings)
                    found = runner.resume(options.output, records, key, make)
                    wanted.append(found)
        text = runner.table(rows(wanted))
        with files.atomic(options.output / "table.md", mode="w") as file:
            file.write(text + "\n")
    click.echo(text)


def _fit(data: Dataset, network: Backbone, seed: int, settings: Settings) -> Record:
    found, _, result = runner.glad(data, network, seed=seed, settings=settings)
    return {**found, "by_kind": by_kind(data, result)}


def rows(records: Sequence[Record]) -> list[list[str]]:
    """Returns a row for each kind of defect, the head first.

    Args:
      records: For each category and seed one not aligned, one aligned.
    """
    lines = [["category", "seed", "defect", "not aligned", "aligned", "difference"]]
    for plain, moved in zip(records[::2], records[1::2], strict=True):
        pairs = {"all": (plain["image_auroc"], moved["image_auroc"])}
        pairs |= {k: (v, moved["by_kind"][k]) for k, v in plain["by_kind"].items()}
        for kind, pair in pairs.items():
            cells = [runner.percent(value) for value in (*pair, pair[1] - pair[0])]
            lines.append([plain["category"], str(plain["seed"]), kind, *cells])
    return lines


if __name__ == "__main__":
    main()
