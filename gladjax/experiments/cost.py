"""Memory of a model and time of an image, method by method: the paper's Table 5.

    python -m gladjax.experiments.cost --data-root DIR --categories toothbrush \
        --backbone wide_resnet50_2 --random-weights --output OUT

Memory is that of the fitted arrays; time is that of features and score of one image,
without alignment, as in the paper, the median of a few. With ``--random-weights`` the
backbone is not trained: cost is then right and accuracy is not, so AUROCs are left out.
Expected: as the paper's order, GLAD smaller than PaDiM; minutes on a core.

Notation: none.

Differs from the reference in: (1) the machine, and how much of it was free; (2) GLAD
keeps factors instead of covariances, so that its memory depends on the number of
samples and not on the square of the features.

Reference: Artola, Kolodziej, Morel, Ehret. "GLAD". WACV 2023, Table 5.
"""

import argparse
import dataclasses
from collections.abc import Sequence

import click
import jax

from gladjax import backbone as backbones
from gladjax import images
from gladjax.backbone import Backbone
from gladjax.datasets import Dataset
from gladjax.experiments import comparison, paper, rows, runner
from gladjax.experiments.runner import Record
from gladjax.experiments.study import Case

METHODS = ("glad", "padim", "cflow", "draem", "csflow", "mahaad", "patchcore")
DEFAULT = ("glad", "padim")
PRINTED = METHODS[:5]
ACCURACY = ("image_auroc", "pixel_auroc", "aupro")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the experiment.

    Args:
      arguments: The command line; the process's own by default.

    Raises:
      SystemExit: With a message, if the data or the options do not fit.
    """
    parser = rows.parser("cost", "Memory and time (Table 5).")
    comparison.add_options(parser, methods=METHODS, default=DEFAULT)
    add = parser.add_argument
    add("--random-weights", action="store_true", help="for cost only, no accuracy")
    add("--num-train", type=int, default=0, help="training images to use, 0 for all")
    options = parser.parse_args(arguments)
    with runner.errors():
        sets, _ = rows.available(options)
        sets = [few(one, options.num_train) for one in sets]
        records = runner.load_records(options.output)
        net = network(options, sets[0])
        for dataset in sets:
            comparison.visit(Case(options, records, dataset, net))
        if options.random_weights:
            for record in records:
                record.update(dict.fromkeys(ACCURACY))
            runner.save_records(options.output, records)
        text = rows.write(options.output, table(records))
    click.echo(text)


def few(dataset: Dataset, count: int) -> Dataset:
    """Returns a data set of fewer training images, and a few test images.

    Args:
      dataset: The data set.
      count: Number of training images; 0 leaves the data set as it is.
    """
    if not count:
        return dataset
    good = [record for record in dataset.test if not record.label][:8]
    bad = [record for record in dataset.test if record.label][:8]
    return dataclasses.replace(dataset, records=(*dataset.train[:count], *good, *bad))


def network(options: argparse.Namespace, dataset: Dataset) -> Backbone:
    """Returns the backbone, with random weights if the command line says so.

    Args:
      options: The command line.
      dataset: Its images set the statistics of random weights.
    """
    if not options.random_weights:
        return rows.network(options)
    raw = backbones.random(jax.random.key(0), options.backbone, folded=False)
    some = [images.read(record.image) for record in dataset.train[:4]]
    batch = backbones.preprocess(raw, some)
    return backbones.fold(backbones.calibrate_batch_norm(raw, batch))


def table(records: Sequence[Record]) -> list[list[str]]:
    """Returns a row for each method and backbone, the paper's figures beside.

    Args:
      records: The rows of all categories, methods and seeds.
    """
    out = [["method", "backbone", "GB", "s / image", "paper GB", "paper s / image"]]
    for name in dict.fromkeys(record["backbone"] for record in records):
        for method in METHODS:
            own = [
                r for r in records if r["method"] == method and r["backbone"] == name
            ]
            if own:
                size = rows.mean(record["model_bytes"] for record in own) or 0.0
                passed = [_seconds(record) for record in own]
                cells = [f"{size / 1e9:.4f}", f"{sum(passed) / len(passed):.3f}"]
                out.append([method, name, *cells, *_printed(method)])
    there = {row[0] for row in out}
    for method in PRINTED:
        if method not in there:
            out.append([method, "-", rows.NOT_RUN, "", *_printed(method)])
    return out


def _seconds(record: Record) -> float:
    passed = record["seconds_per_image"]
    return passed["features"] + passed["score"]


def _printed(method: str) -> list[str]:
    if method not in PRINTED:
        return ["-", "-"]
    known = paper.cost(method)
    return [f"{known.memory_gb:g}", f"{known.seconds_per_image:g}"]


if __name__ == "__main__":
    main()
