"""Scores the test images of a data set: scores, heat maps, times, AUROC and AU-PRO.

The test images go through the detector one by one, each stage timed. Heat maps and
masks have one size, that of the pixel metrics, whatever the sizes of the images: as
many pixels as 256 x 256, in the shape at which the network sees the images.

Notation: none.

Differs from the reference in: there is none.

Reference: there is none.
"""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np

from gladjax import datasets, detector, files, images, metrics, outputs, plots
from gladjax.datasets import Dataset
from gladjax.detector import Detector

METRIC_SIZE = (256, 256)


def metric_size(shape: tuple[int, int]) -> tuple[int, int]:
    """Returns the size of the pixel metrics: the pixels of `METRIC_SIZE` in a shape.

    Args:
      shape: Height and width at which the network sees the images.

    Example:
      >>> metric_size((448, 448)), metric_size((112, 560))
      ((256, 256), (114, 572))
    """
    height, width = shape
    pixels = math.prod(METRIC_SIZE)
    sides = math.sqrt(pixels * height / width), math.sqrt(pixels * width / height)
    return max(1, round(sides[0])), max(1, round(sides[1]))


class Evaluation(NamedTuple):
    """Scores of the test images of a data set.

    Attributes:
      scores: One per image, higher is more anomalous.
      labels: 1 where anomalous.
      heat_maps: ``(n, 256, 256)``, or as `metric_size` has it, in the images' frames.
      masks: One per image, of that size, None where it is not known; None where the
        data set has none.
      seconds: Median wall time per image and stage.
      notes: How many masks there are, and why a figure is absent, in words.
    """

    scores: np.ndarray
    labels: np.ndarray
    heat_maps: np.ndarray
    masks: Sequence[np.ndarray | None] | np.ndarray | None
    seconds: dict[str, float]
    notes: tuple[str, ...] = ()


def evaluate(
    fitted: Detector,
    dataset: Dataset,
    *,
    pictures: Path | None = None,
    force: bool = False,
    read: Callable[[Path], np.ndarray] = images.photograph,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Scores the test images of a data set.

    Args:
      fitted: The detector.
      dataset: Its ``test`` records are scored.
      pictures: Folder for a picture per image (input, heat map, score); none by
        default.
      force: Whether the pictures may replace any file.
      read: Reads an image, 0 to 255.
      progress: Called with the number of images done, and of all.

    Returns:
      Scores, maps and times.
    """
    records = dataset.test
    targets = None
    if pictures is not None:
        targets = picture_files(dataset, pictures, force=force)
    size = metric_size(fitted.backbone.image_size)
    times: dict[str, list[float]] = {"read": [], "align": [], "features": []}
    times["score"] = []
    scores, heats, shown = [], [], []
    for i, record in enumerate(records):
        ticks = [time.perf_counter()]
        image = read(record.image)
        ticks.append(time.perf_counter())
        aligned = detector.align_image(fitted, image)
        ticks.append(time.perf_counter())
        maps = detector.features(fitted, aligned)
        ticks.append(time.perf_counter())
        layers = detector.log_maps(fitted, maps)
        scored = detector.summarise(fitted, layers, aligned, size)
        ticks.append(time.perf_counter())
        for name, passed in zip(times, np.diff(ticks), strict=True):
            times[name].append(float(passed))
        scores.append(scored.score)
        heats.append(scored.heat_map)
        if pictures is not None:
            shown.append(plots.reduced(image, plots.MAX_SIDE))
        if progress is not None:
            progress(i + 1, len(records))
    labels = np.array([record.label for record in records])
    truth = datasets.masks(dataset, shape=size)
    result = Evaluation(
        scores=np.array(scores),
        labels=labels,
        heat_maps=np.stack(heats),
        masks=truth.masks,
        seconds={name: statistics.median(passed) for name, passed in times.items()},
        notes=(*truth.notes, *_absent(labels)),
    )
    if targets is not None:
        draw(result, shown, targets)
    return result


def _absent(labels: np.ndarray) -> list[str]:
    """Returns why there is no image AUROC, if there is none."""
    names = ("normal", "anomalous")
    missing = [name for i, name in enumerate(names) if not (labels == i).any()]
    return [f"image AUROC: no {name} test images, so there is none" for name in missing]


def read_masks(dataset: Dataset) -> Sequence[np.ndarray | None] | None:
    """Returns the masks of the test images at the size of the pixel metrics.

    Args:
      dataset: The data set; what is missing is told on standard error.

    Returns:
      Booleans, ``(256, 256)``, all false for normal images, None where they are not
      known; None without masks.
    """
    truth = datasets.masks(dataset, shape=METRIC_SIZE)
    if not dataset.has_masks:
        for note in truth.notes:
            click.echo(f"{dataset.category}: {note}", err=True)
    return truth.masks


def draw(
    result: Evaluation, shown: Sequence[np.ndarray], targets: Sequence[Path]
) -> None:
    """Writes a picture per test image: input, heat map over it, score.

    Args:
      result: The evaluation.
      shown: The images.
      targets: The file of each, see `picture_files`.
    """
    low, high = np.quantile(result.heat_maps, [0.5, 0.999])

    def one(target: Path, image: np.ndarray, heat: np.ndarray, score: float) -> None:
        picture = plots.scored_picture(
            image, heat, float(score), limits=(float(low), float(high))
        )
        images.write_png(target, picture, software=outputs.SOFTWARE)

    with ThreadPoolExecutor() as pool:  # Most of it is done without Python's lock.
        work = zip(targets, shown, result.heat_maps, result.scores, strict=True)
        for done in [pool.submit(one, *item) for item in work]:
            done.result()


def picture_files(dataset: Dataset, folder: Path, *, force: bool = False) -> list[Path]:
    """Returns a file for the picture of every test image, by kind, all different.

    Args:
      dataset: The data set.
      folder: Where they go.
      force: Whether any file may be replaced, see `outputs.check`.

    Raises:
      ValueError: If a file is there that must not be replaced.
    """
    kinds: dict[str, list[Path]] = {}
    for record in dataset.test:
        kinds.setdefault(record.kind, []).append(record.image)
    names = {
        kind: outputs.Names(files.inside(folder, kind), paths)
        for kind, paths in kinds.items()
    }
    targets = [names[record.kind].next(record.image) for record in dataset.test]
    for target in targets:
        outputs.check(target, outputs.PICTURE, force=force)
    return targets


def measures(result: Evaluation) -> dict[str, float | None]:
    """Returns image AUROC, pixel AUROC and AU-PRO, in [0, 1], None where undefined."""
    masks, both = result.masks, len(np.unique(result.labels)) == 2
    known = [mask for mask in (() if masks is None else masks) if mask is not None]
    some = any(mask.any() for mask in known) and not all(mask.all() for mask in known)
    return {
        "image_auroc": metrics.auroc(result.labels, result.scores) if both else None,
        "pixel_auroc": metrics.pixel_auroc(masks, result.heat_maps) if some else None,
        "aupro": metrics.aupro(masks, result.heat_maps) if some else None,
    }
