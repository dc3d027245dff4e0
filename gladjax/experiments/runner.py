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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import jax
import numpy as np

from gladjax import backbone as backbones
from gladjax import datasets, detector, files, images, metrics, mixture, plots, weights
from gladjax.backbone import Backbone
from gladjax.datasets import Dataset
from gladjax.detector import Detector, Settings

Record = dict[str, Any]
KEY = ("category", "backbone", "method", "seed", "settings")
METRIC_SIZE = (256, 256)


class Evaluation(NamedTuple):
    """Scores of the test images of a data set.

    Attributes:
      scores: One per image, higher is more anomalous.
      labels: 1 where anomalous.
      heat_maps: ``(n, 256, 256)``, in the images' frames.
      masks: ``(n, 256, 256)``; None where the data set has none.
      seconds: Median wall time per image and stage.
    """

    scores: np.ndarray
    labels: np.ndarray
    heat_maps: np.ndarray
    masks: np.ndarray | None
    seconds: dict[str, float]


def evaluate(
    fitted: Detector,
    dataset: Dataset,
    *,
    pictures: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Scores the test images of a data set.

    Args:
      fitted: The detector.
      dataset: Its ``test`` records are scored.
      pictures: Folder for a picture per image (input, heat map, score); none by
        default.
      progress: Called with the number of images done, and of all.

    Returns:
      Scores, maps and times.
    """
    records = dataset.test
    times: dict[str, list[float]] = {"read": [], "align": [], "features": []}
    times["score"] = []
    scores, heats, shown = [], [], []
    for i, record in enumerate(records):
        ticks = [time.perf_counter()]
        image = images.read(record.image)
        ticks.append(time.perf_counter())
        aligned = detector.align_image(fitted, image)
        ticks.append(time.perf_counter())
        maps = detector.features(fitted, aligned)
        ticks.append(time.perf_counter())
        layers = detector.log_maps(fitted, maps)
        scored = detector.summarise(fitted, layers, aligned, METRIC_SIZE)
        ticks.append(time.perf_counter())
        for name, passed in zip(times, np.diff(ticks), strict=True):
            times[name].append(float(passed))
        scores.append(scored.score)
        heats.append(scored.heat_map)
        if pictures is not None:
            shown.append(image)
        if progress is not None:
            progress(i + 1, len(records))
    labels = np.array([record.label for record in records])
    result = Evaluation(
        scores=np.array(scores),
        labels=labels,
        heat_maps=np.stack(heats),
        masks=read_masks(dataset),
        seconds={name: statistics.median(passed) for name, passed in times.items()},
    )
    if pictures is not None:
        draw(dataset, result, shown, pictures)
    return result


def read_masks(dataset: Dataset) -> np.ndarray | None:
    """Returns the masks of the test images at the size of the pixel metrics.

    Args:
      dataset: The data set.

    Returns:
      ``(n, 256, 256)`` booleans, all false for normal images; None without masks.
    """
    if not dataset.has_masks:
        return None
    masks = [datasets.read_mask(record, shape=METRIC_SIZE) for record in dataset.test]
    return np.stack(masks)


def draw(
    dataset: Dataset, result: Evaluation, shown: Sequence[np.ndarray], folder: Path
) -> None:
    """Writes a picture per test image: input, heat map over it, score.

    Args:
      dataset: The data set.
      result: Its evaluation.
      shown: The images.
      folder: Where to write.
    """
    low, high = np.quantile(result.heat_maps, [0.5, 0.999])
    for record, image, heat, score in zip(
        dataset.test, shown, result.heat_maps, result.scores, strict=True
    ):
        picture = plots.scored_picture(
            image, heat, float(score), limits=(float(low), float(high))
        )
        name = f"{record.kind}/{record.image.stem}.png"
        path = files.inside(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        images.write_png(path, picture)


def measures(result: Evaluation) -> Record:
    """Returns image AUROC, pixel AUROC and AU-PRO, in [0, 1], None without masks."""
    masks = result.masks
    some = masks is not None and bool(np.any(masks))
    return {
        "image_auroc": metrics.auroc(result.labels, result.scores),
        "pixel_auroc": metrics.pixel_auroc(masks, result.heat_maps) if some else None,
        "aupro": metrics.aupro(masks, result.heat_maps) if some else None,
    }


def glad(
    dataset: Dataset,
    backbone: Backbone,
    *,
    seed: int,
    settings: Settings,
    pictures: Path | None = None,
    method: str = "glad",
) -> tuple[Record, Detector, Evaluation]:
    """Fits GLAD to the training images and evaluates it on the test images.

    Args:
      dataset: The data set.
      backbone: The network.
      seed: Randomness of the fit.
      settings: How to fit.
      pictures: Folder for a picture per test image; none by default.
      method: Name in the record.

    Returns:
      The record, the detector and the evaluation.
    """
    name = f"{dataset.category} seed {seed}"
    train = images.Lazy([record.image for record in dataset.train])
    begun = time.perf_counter()
    with Bar(name) as bar:
        fitted, info = detector.fit_info(
            jax.random.key(seed), backbone, train, settings=settings, progress=bar
        )
        fit_seconds = time.perf_counter() - begun
        result = evaluate(
            fitted,
            dataset,
            pictures=pictures,
            progress=lambda done, total: bar("test images", done, total),
        )
    record = {
        "category": dataset.category,
        "data": dataset.name,
        "backbone": backbone.name,
        "method": method,
        "seed": seed,
        "settings": dataclasses.asdict(settings),
        "num_train": len(dataset.train),
        "num_test": len(dataset.test),
        **measures(result),
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
        "num_components": {n: len(layer.mixture.means) for n, layer in layers},
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
    add("--num-components", type=int, default=Settings.num_components)
    add("--max-samples", type=int, default=Settings.max_samples, help="0 for all")
    add("--max-steps", type=int, default=Settings.max_steps)
    add("--radius", type=float, default=Settings.radius)
    add("--motion", default="", help="align by this motion; not aligned by default")
    add("--coarse", action="store_true", help="align at any angle")
    add("--heat-maps", action="store_true", help="write a picture per test image")
    add("--skip-bad", action="store_true", help="warn of unreadable images, go on")


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
    names = ("num_components", "max_samples", "max_steps", "radius", "motion", "coarse")
    settings = Settings(**{name: getattr(options, name) for name in names})
    for dataset in sets:
        for error in dataset.errors:
            click.echo(f"skipped: {error}", err=True)
    network = backbones.load(options.backbone, checkpoint=options.checkpoint)
    records = load_records(options.output)
    wanted = []
    for dataset in sets:
        for seed in options.seeds:
            row = (dataset.category, network.name, "glad", seed)
            key: Record = dict(
                zip(KEY, (*row, dataclasses.asdict(settings)), strict=True)
            )
            found = find(records, key)
            if found is None:
                pictures = options.output / "heat_maps" / dataset.category
                found, _, _ = glad(
                    dataset,
                    network,
                    seed=seed,
                    settings=settings,
                    pictures=pictures if options.heat_maps else None,
                )
                records.append(found)
                save_records(options.output, records)
            wanted.append(found)
    return wanted


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


def find(records: Sequence[Record], wanted: Record) -> Record | None:
    """Returns the record that agrees in what identifies a row, or None."""
    for record in records:
        if all(record.get(name) == wanted.get(name) for name in KEY):
            return record
    return None


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
