"""Scores the test images of a data set: scores, heat maps, times, AUROC and AU-PRO.

The test images go through the detector one by one, each stage timed. Heat maps and
masks have one size, that of the pixel metrics, whatever the sizes of the images.

Notation: none.

Differs from the reference in: there is none.

Reference: there is none.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gladjax import datasets, detector, files, images, metrics, plots
from gladjax.datasets import Dataset
from gladjax.detector import Detector

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


def measures(result: Evaluation) -> dict[str, float | None]:
    """Returns image AUROC, pixel AUROC and AU-PRO, in [0, 1], None without masks."""
    masks = result.masks
    some = masks is not None and bool(np.any(masks))
    return {
        "image_auroc": metrics.auroc(result.labels, result.scores),
        "pixel_auroc": metrics.pixel_auroc(masks, result.heat_maps) if some else None,
        "aupro": metrics.aupro(masks, result.heat_maps) if some else None,
    }
