"""Development data made of training images, for choices that no label may make.

A part of the training images is held out. Their likelihood under a model of the others
says how well the model fits; copies with a small defect pasted into them, a disc cut
from another place of another image, say how well a score separates.

Notation: none.

Differs from the reference in: (1) the paper chooses on test images.

Reference: pasting as in Li, Sohn, Yoon, Pfister. "CutPaste". CVPR 2021.
"""

import dataclasses

import numpy as np

from gladjax import backbone as backbones
from gladjax import datasets, detector
from gladjax.datasets import Dataset
from gladjax.experiments.evaluation import METRIC_SIZE
from gladjax.experiments.sources import Maps, Prepare, Source

SHARE = 0.2
"""Share of the training images that is held out."""


def split(count: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Returns numbers of training images to learn from, and of those held out.

    Args:
      count: How many there are, at least two.
      seed: Which split.
    """
    order = np.random.default_rng(seed).permutation(count)
    held = max(1, round(SHARE * count))
    return np.sort(order[held:]), np.sort(order[:held])


def pasted(dataset: Dataset, *, seed: int = 0) -> tuple[Dataset, Prepare]:
    """Returns a data set of held-out images, each once as it is and once with a defect.

    Args:
      dataset: Its training images are used, no others.
      seed: Of split and defects.

    Returns:
      The data set, and how its images are prepared.
    """
    learn, held = split(len(dataset.train), seed=seed)
    train = [dataset.train[i] for i in learn]
    good = [dataset.train[i]._replace(split="test") for i in held]
    bad = [record._replace(label=1, kind="pasted") for record in good]
    found = dataclasses.replace(dataset, records=(*train, *good, *bad))

    read = datasets.reader(dataset)

    def prepare(part: str, number: int, image: np.ndarray) -> np.ndarray:
        if part == "train" or number < len(good):
            return image
        rng = np.random.default_rng([seed, number])
        other = read(train[rng.integers(len(train))].image)
        return paste(rng, image, other)

    return found, prepare


def paste(rng: np.random.Generator, image: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Returns an image with a soft disc of another place of another image in it.

    Args:
      rng: Draws place, size and strength.
      image: RGB, 0 to 255.
      other: RGB, of any size.

    Returns:
      The image at 256 x 256.
    """
    side = METRIC_SIZE[0]
    base, far = (
        np.asarray(backbones.resize(np.asarray(x), size=METRIC_SIZE), np.float32)
        for x in (image, other)
    )
    shift = rng.integers(side // 8, side - side // 8, 2)
    far = np.roll(far, shift, axis=(0, 1))
    centre, radius = rng.uniform(0.2 * side, 0.8 * side, 2), rng.uniform(5, 15)
    y, x = np.mgrid[:side, :side]
    away = np.hypot(y - centre[0], x - centre[1])
    part = rng.uniform(0.5, 1) * np.clip(radius - away, 0, 2)[..., None] / 2
    return (1 - part) * base + part * far


def totals(source: Source, maps: Maps) -> tuple[np.ndarray, np.ndarray]:
    """Returns the sums of the layers' log-maps, and the cells that count.

    Args:
      source: The features' frame.
      maps: Log-maps of all images, by layer.

    Returns:
      ``(n, h, w)`` log-probabilities and booleans.
    """
    found = [
        detector.summarise(
            source.blank, {k: v[i] for k, v in maps.items()}, one, METRIC_SIZE
        )
        for i, one in enumerate(source.aligned)
    ]
    return np.stack([f.log_map for f in found]), np.stack([f.mask for f in found])
