"""What the experiments share: fit, evaluate, record, resume.

A record is one row of a table: category, backbone, method, seed, the metrics, and what
they cost. Records are kept in ``<output>/results.json``; a row that stands there with
the same settings is not computed again.
"""

import argparse
import contextlib
import dataclasses
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import jax
import numpy as np

from gladjax import backbone as backbones
from gladjax import datasets, detector, files, images, mixture, streaming, weights
from gladjax.backbone import Backbone
from gladjax.datasets import Dataset
from gladjax.detector import Detector, Settings
from gladjax.experiments import evaluation
from gladjax.experiments.evaluation import Evaluation

Record = dict[str, Any]
KEY = ("category", "backbone", "method", "seed", "settings")


def image_scores(fitted: Detector, paths: Sequence[Path]) -> np.ndarray:
    """Returns the scores of images.

    Args:
      fitted: The detector.
      paths: Their files.

    Raises:
      ImageError: If one cannot be read.
    """
    found = []
    for result in streaming.score_many(fitted, images.Lazy(paths)):
        if isinstance(result, images.ImageError):
            raise result
        found.append(result.score)
    return np.array(found)


def glad(
    dataset: Dataset,
    backbone: Backbone,
    *,
    seed: int,
    settings: Settings,
    pictures: Path | None = None,
    method: str = "glad",
    folds: int = 0,
) -> tuple[Record, Detector, Evaluation]:
    """Fits GLAD to the training images and evaluates it on the test images.

    Args:
      dataset: The data set.
      backbone: The network.
      seed: Randomness of the fit.
      settings: How to fit.
      pictures: Folder for a picture per test image; none by default.
      method: Name in the record.
      folds: Folds of training images that calibrate, left out in turn; 0 for none.

    Returns:
      The record, the detector and the evaluation.
    """
    name = f"{dataset.category} seed {seed}"
    paths = [record.image for record in dataset.train]
    read = datasets.reader(dataset)
    train = images.Lazy(paths, read=read)
    begun = time.perf_counter()
    with Bar(name) as bar:
        fitted, info = detector.fit_info(
            jax.random.key(seed),
            backbone,
            train,
            settings=settings,
            folds=folds,
            progress=bar,
        )
        if info.left_out is not None:
            scores = info.left_out[np.isfinite(info.left_out)]
            fitted = dataclasses.replace(fitted, calibration=scores)
        fit_seconds = time.perf_counter() - begun
        result = evaluation.evaluate(
            fitted,
            dataset,
            pictures=pictures,
            read=read,
            progress=lambda done, total: bar("test images", done, total),
        )
    for note in (*dataset.notes, *result.notes):
        click.echo(f"{dataset.category}: {note}", err=True)
    record = {
        "category": dataset.category,
        "data": dataset.name,
        "backbone": backbone.name,
        "method": method,
        "seed": seed,
        "settings": dataclasses.asdict(settings),
        "num_train": len(dataset.train),
        "num_test": len(dataset.test),
        **evaluation.measures(result),
        **sizes(fitted),
        "steps": {name: len(i.log_likelihood) for name, i in info.mixtures.items()},
        "fit_seconds": fit_seconds,
        "fit_stages": info.seconds,
        "seconds_per_image": result.seconds,
    }
    return record, fitted, result


def sizes(fitted: Detector) -> Record:
    """Returns components kept, active ones per position (mean), and bytes."""
    layers = fitted.layers.items()
    arrays = [(layer.mixture, layer.local_weights) for _, layer in layers]
    return {
        "num_components": {
            n: int(np.isfinite(np.asarray(layer.mixture.log_weights)).sum())
            for n, layer in layers
        },
        "active_per_position": {
            name: round(float(weights.active(layer.local_weights).mean()), 4)
            for name, layer in layers
        },
        "model_bytes": sum(
            mixture.num_bytes(m) + sum(leaf.nbytes for leaf in jax.tree.leaves(w))
            for m, w in arrays
        ),
    }


def peak_memory() -> int:
    """Returns the largest resident size of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that every experiment with GLAD has."""
    add = parser.add_argument
    add("--backbone", default="efficientnet_lite0", help="name of the network")
    add("--checkpoint", type=Path, help="file with the network's weights")
    add("--output", type=Path, required=True, help="folder for results")
    add("--seeds", nargs="+", type=int, default=[0], help="one row for each")
    add("--paper", action="store_true", help="the paper's settings, but what is given")
    add("--num-components", type=int, help="0 to choose them from the images")
    add("--max-samples", type=int, help="0 for all")
    add("--max-steps", type=int)
    add("--tolerance", type=float)
    add("--radius", type=float)
    add("--neighbourhood", type=int, help="side of the windows, 1 for none")
    add(
        "--finest",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="whether the finest layer is looked at",
    )
    add("--margin", type=float, help="share of each side that does not count")
    add("--motion", default="", help="align by this motion; not aligned by default")
    add("--coarse", action="store_true", help="align at any angle")
    add("--heat-maps", action="store_true", help="write a picture per test image")
    add("--skip-bad", action="store_true", help="warn of unreadable images, go on")
    add("--require-masks", action="store_true", help="refuse if a mask is missing")


def settings(options: argparse.Namespace) -> Settings:
    """Returns the settings that the command line asks for, see `add_options`."""
    names = ("num_components", "max_samples", "max_steps", "tolerance", "radius")
    names += ("neighbourhood", "finest", "margin", "motion", "coarse")
    given = {name: getattr(options, name) for name in names}
    known = Settings.paper if options.paper else Settings
    return known(**{name: one for name, one in given.items() if one is not None})


@contextlib.contextmanager
def errors() -> Iterator[None]:
    """Ends the program with a message where the data or the options do not fit."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from error


def run(sets: Sequence[Dataset], options: argparse.Namespace) -> list[Record]:
    """Fits and evaluates GLAD on data sets, with each seed.

    Args:
      sets: The data sets.
      options: The command line, see `add_options`.

    Returns:
      One record per data set and seed; finished ones are not run again.
    """
    chosen = settings(options)
    for dataset in sets:
        tell(dataset)
    network = backbones.load(options.backbone, checkpoint=options.checkpoint)
    records = load_records(options.output)

    def row(dataset: Dataset, seed: int) -> Record:
        pictures = options.output / "heat_maps" / dataset.category
        return resume(
            options.output,
            records,
            identity(dataset, network, "glad", seed, dataclasses.asdict(chosen)),
            lambda: glad(
                dataset,
                network,
                seed=seed,
                settings=chosen,
                pictures=pictures if options.heat_maps else None,
            )[0],
        )

    return [row(dataset, seed) for dataset in sets for seed in options.seeds]


def tell(dataset: Dataset) -> None:
    """Says which images of a data set were skipped, and which are copies.

    Every image is read for it: a copy among the test images would change the table.

    Args:
      dataset: The data set.
    """
    for error in dataset.errors:
        click.echo(f"skipped: {error}", err=True)
    for note in datasets.copies(dataset):
        click.echo(f"{dataset.category}: {note}", err=True)


class Bar:
    """One line of progress on standard error, where that is a terminal."""

    def __init__(self, name: str) -> None:
        """Shows nothing yet."""
        self._name, self._stage = name, ""

    def __enter__(self) -> "Bar":
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the line."""
        if self._stage:
            click.echo("", err=True)

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Shows how far a stage is."""
        if not sys.stderr.isatty():
            return
        if self._stage and stage != self._stage:
            click.echo("", err=True)
        self._stage = stage
        click.echo(f"\r{self._name}: {stage} {done}/{total} ", nl=False, err=True)


def load_records(output: Path) -> list[Record]:
    """Returns the records of an earlier run, none where there was none."""
    path = output / "results.json"
    return list(files.read_json(path)) if path.exists() else []


def identity(
    dataset: Dataset,
    backbone: Backbone,
    method: str,
    seed: int,
    settings: Mapping[str, Any],
) -> Record:
    """Returns what identifies a row.

    Args:
      dataset: The data set.
      backbone: The network.
      method: Name of the method.
      seed: Its randomness.
      settings: Whatever else decides the numbers.
    """
    values = (dataset.category, backbone.name, method, seed, dict(settings))
    return dict(zip(KEY, values, strict=True))


def find(records: Sequence[Record], wanted: Record) -> Record | None:
    """Returns the record that agrees in what identifies a row, or None."""
    for record in records:
        if all(record.get(name) == wanted.get(name) for name in KEY):
            return record
    return None


def resume(
    output: Path,
    records: list[Record],
    wanted: Record,
    make: Callable[[], Record],
) -> Record:
    """Returns the record of a row, computed and written only if it is not there.

    Args:
      output: Folder of ``results.json``.
      records: What is there; a new record is appended.
      wanted: What identifies the row, see `identity`.
      make: Computes the whole record.
    """
    found = find(records, wanted)
    if found is None:
        found = make()
        records.append(found)
        save_records(output, records)
    return found


def save_records(output: Path, records: Sequence[Record]) -> None:
    """Writes ``results.json``, whole or not at all."""
    output.mkdir(parents=True, exist_ok=True)
    files.write_json(output / "results.json", list(records))


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Returns mean and standard deviation (0 for a single value)."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return statistics.fmean(values), deviation


def table(rows: Sequence[Sequence[str]]) -> str:
    """Returns rows as a Markdown table; the first one is the head."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def percent(value: float | None) -> str:
    """Returns a fraction in percent with two decimals, a dash for None."""
    return "-" if value is None else f"{100 * value:.2f}"
