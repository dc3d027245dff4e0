"""Development data made of training images, for choices that no label may make.

A part of the training images is held out. Their likelihood under a model of the others
says how well the model fits; copies with a small defect pasted into them, by one of
`RECIPES`, say how well a score separates.

Notation: none.

Differs from the reference in: (1) the paper chooses on test images.

Reference: pasting as in Li, Sohn, Yoon, Pfister. "CutPaste". CVPR 2021.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from gladjax import backbone as backbones
from gladjax import datasets, detector, metrics
from gladjax.datasets import Dataset
from gladjax.experiments.evaluation import METRIC_SIZE
from gladjax.experiments.sources import Maps, Prepare, Source
from gladjax.experiments.stages import FittedLayer

Picture = Float[np.ndarray, "256 256 3"]
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


def pasted(
    dataset: Dataset, *, seed: int = 0, recipes: Sequence[str] = ("disc",)
) -> tuple[Dataset, Prepare]:
    """Returns held-out images, each once as it is and once with a defect per recipe.

    Args:
      dataset: Its training images are used, no others.
      seed: Of split and defects.
      recipes: Names of `RECIPES`; they are the kinds of the images with a defect.

    Returns:
      The data set, and how its images are prepared.
    """
    learn, held = split(len(dataset.train), seed=seed)
    train = [dataset.train[i] for i in learn]
    good = [dataset.train[i]._replace(split="test") for i in held]
    bad = [one._replace(label=1, kind=kind) for kind in recipes for one in good]
    found = dataclasses.replace(dataset, records=(*train, *good, *bad))

    read = datasets.reader(dataset)

    def prepare(part: str, number: int, image: np.ndarray) -> np.ndarray:
        if part == "train" or number < len(good):
            return image
        rng = np.random.default_rng([seed, number])
        other = read(train[rng.integers(len(train))].image)
        base, far = (
            np.asarray(backbones.resize(np.asarray(x), size=METRIC_SIZE), np.float32)
            for x in (image, other)
        )
        return RECIPES[recipes[number // len(good) - 1]](rng, base, far)

    return found, prepare


def _disc(rng: np.random.Generator, base: Picture, far: Picture) -> Picture:
    """A soft disc of another place of another image."""
    side = METRIC_SIZE[0]
    shift = rng.integers(side // 8, side - side // 8, 2)
    far = np.roll(far, shift, axis=(0, 1))
    centre, radius = rng.uniform(0.2 * side, 0.8 * side, 2), rng.uniform(5, 15)
    y, x = np.mgrid[:side, :side]
    away = np.hypot(y - centre[0], x - centre[1])
    part = rng.uniform(0.5, 1) * np.clip(radius - away, 0, 2)[..., None] / 2
    return (1 - part) * base + part * far


def _cut(rng: np.random.Generator, base: Picture, far: Picture) -> Picture:
    """A rectangle of another place of another image, a little brighter or darker."""
    side = METRIC_SIZE[0]
    area = math.exp(rng.uniform(math.log(8**2), math.log(44**2)))
    ratio = math.exp(rng.uniform(-1.1, 1.1))
    size = [max(4, round(math.sqrt(area * r))) for r in (ratio, 1 / ratio)]
    (top, left), (row, column) = (
        [int(rng.integers(side - one + 1)) for one in size] for _ in range(2)
    )
    part = far[row : row + size[0], column : column + size[1]]
    out = base.copy()
    changed = part * rng.uniform(0.85, 1.15) + rng.uniform(-12, 12)
    out[top : top + size[0], left : left + size[1]] = np.clip(changed, 0, 255)
    return out


def _displaced(rng: np.random.Generator, base: Picture, _: Picture) -> Picture:
    """A rectangle of another place of the image itself."""
    return _cut(rng, base, base)


def _along(rng: np.random.Generator, edge: float) -> tuple[np.ndarray, np.ndarray]:
    """Distances of pixels from a point along a direction and across it."""
    side = METRIC_SIZE[0]
    y, x = np.mgrid[:side, :side] - rng.uniform(edge, side - edge, 2)[:, None, None]
    turn = rng.uniform(0, math.pi)
    return (
        x * math.cos(turn) + y * math.sin(turn),
        y * math.cos(turn) - x * math.sin(turn),
    )


def _scar(rng: np.random.Generator, base: Picture, far: Picture) -> Picture:
    """A thin bent stroke of a colour of another image, or darker or brighter."""
    along, across = _along(rng, 20.0)
    half, width = rng.uniform(15, 70) / 2, rng.uniform(1, 4)
    across = across + rng.uniform(-0.01, 0.01) * along**2
    part = np.clip(width + 0.5 - abs(across), 0, 1)
    part = (part * np.clip(half + 0.5 - abs(along), 0, 1))[..., None]
    colour = far[tuple(rng.integers(METRIC_SIZE[0], size=2))]
    if rng.random() < 0.5:
        colour = base.mean() + rng.choice([-1, 1]) * rng.uniform(25, 80)
    return np.clip((1 - part) * base + part * colour, 0, 255)


def _spot(rng: np.random.Generator, base: Picture, _: Picture) -> Picture:
    """A soft ellipse, darker or brighter."""
    along, across = _along(rng, 12.0)
    first, second = np.exp(rng.uniform(math.log(4), math.log(20), 2))
    away = (along / first) ** 2 + (across / second) ** 2
    part = np.exp(-(away**2) / 2) * rng.choice([-1, 1]) * rng.uniform(20, 70)
    return np.clip(base + part[..., None], 0, 255)


RECIPES: dict[str, Callable[[np.random.Generator, Picture, Picture], Picture]] = {
    "disc": _disc,
    "cut": _cut,
    "displaced": _displaced,
    "scar": _scar,
    "spot": _spot,
}
"""Defects by name: of randomness, an image and another one, 0 to 255, 256 x 256."""


SHOWN = ("cut", "displaced", "scar", "spot")
"""Recipes of the studies that choose by pasted defects."""


def told(made: Dataset, scores: Float[np.ndarray, " n"]) -> dict[str, float]:
    """Returns the AUROC of each recipe: the held-out images against their copies.

    Args:
      made: From `pasted`.
      scores: Of its test images.
    """
    kinds = np.array([record.kind for record in made.test])
    labels = np.array([record.label for record in made.test])
    recipes = dict.fromkeys(kinds[labels == 1].tolist())
    some = {kind: (labels == 0) | (kinds == kind) for kind in recipes}
    return {kind: metrics.auroc(labels[s], scores[s]) for kind, s in some.items()}


def likelihood(
    source: Source, layers: Mapping[str, FittedLayer], *, first: int | None = None
) -> float:
    """Returns the mean log-probability of held-out images, in nats per cell.

    Args:
      source: Features whose test images are the held-out ones.
      layers: The layers, with log-maps of these.
      first: How many of these count, the first ones; all by default.
    """
    whole, inside = totals(source, {k: one.log_maps for k, one in layers.items()})
    return float(whole[:first][inside[:first]].mean(dtype=np.float64))


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
