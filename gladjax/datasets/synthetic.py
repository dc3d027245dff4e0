"""A small data set drawn from a seed, for tests and examples: nothing to download.

``texture`` is a weave of two waves; ``plate`` is a bright plate with four bolts, a
little moved and turned from image to image. Defects are scratches and spots, and on the
plate a missing bolt. Images are drawn in memory, each from its own generator, so that
the tenth image does not depend on how many were drawn before.

Notation: coordinates run from 0 to 1 over the image.

Differs from the reference in: there is none.

Reference: there is none.
"""

import zlib

import numpy as np
from jaxtyping import Bool, Float64, UInt8

from gladjax import files, images
from gladjax.datasets.base import GOOD, Dataset, StrPath
from gladjax.datasets.mvtec import mvtec

KINDS = {"texture": ("scratch", "spot"), "plate": ("missing", "scratch", "spot")}
"""The categories, and the kinds of defect of each."""

_BOLTS = ((0.36, 0.36), (0.64, 0.36), (0.36, 0.64), (0.64, 0.64))
Plane = Float64[np.ndarray, "h w"]


def draw(
    category: str, *, kind: str = GOOD, number: int = 0, seed: int = 0, size: int = 96
) -> tuple[UInt8[np.ndarray, "h w 3"], Bool[np.ndarray, "h w"]]:
    """Draws one image and its mask.

    Args:
      category: ``"texture"`` or ``"plate"``.
      kind: ``"good"``, or a kind of defect of the category.
      number: Which image of the kind.
      seed: Which data set.
      size: The height and width.

    Returns:
      The image, and the pixels of the defect: none if it is good.

    Raises:
      ValueError: If the category or the kind is unknown, or the size below 16.
    """
    if category not in KINDS:
        raise ValueError(f"no category {category!r}; there are: {', '.join(KINDS)}")
    if kind not in (GOOD, *KINDS[category]):
        raise ValueError(f"no kind {kind!r} in {category}; it has {KINDS[category]}")
    if size < 16:
        raise ValueError(f"size must be at least 16, not {size}")
    stream = [seed, zlib.crc32(category.encode()), zlib.crc32(kind.encode()), number]
    rng = np.random.default_rng(stream)
    axis = (np.arange(size) + 0.5) / size
    y, x = np.broadcast_to(axis[:, None], (size, size)), np.tile(axis, (size, 1))
    if category == "texture":
        grey, hole = _weave(rng, y, x), np.zeros((size, size), bool)
    else:
        grey, hole = _plate(rng, y, x, without_bolt=kind == "missing")
    shade, mask = _defect(rng, y, x, kind)
    tint = np.array([1.0, 0.95, 0.85])
    noisy = (grey + shade)[..., None] * tint + rng.normal(0, 0.02, (size, size, 3))
    return np.rint(255 * np.clip(noisy, 0, 1)).astype(np.uint8), mask | hole


def _weave(rng: np.random.Generator, y: Plane, x: Plane) -> Plane:
    """Two waves that cross, with phases of their own in each image."""
    a, b = rng.uniform(0, 2 * np.pi, 2)
    waves = np.sin(2 * np.pi * 9 * x + a) * np.sin(2 * np.pi * 12 * y + b)
    return 0.5 + 0.12 * waves


def _plate(
    rng: np.random.Generator, y: Plane, x: Plane, *, without_bolt: bool
) -> tuple[Plane, Bool[np.ndarray, "h w"]]:
    """A plate on a dark ground with four bolts, of which one may be missing."""
    angle, (dy, dx) = rng.normal(0, 0.03), rng.normal(0, 0.006, 2)
    c, s = np.cos(angle), np.sin(angle)
    v = c * (y - 0.5 - dy) - s * (x - 0.5 - dx) + 0.5
    u = s * (y - 0.5 - dy) + c * (x - 0.5 - dx) + 0.5
    blur = 60.0  # Edges are about a pixel wide at the usual size.
    side = 0.34 - np.maximum(np.abs(v - 0.5), np.abs(u - 0.5))
    grey = 0.12 + 0.55 / (1 + np.exp(-blur * 2 * side))
    hole = np.zeros(y.shape, bool)
    missing = int(rng.integers(4)) if without_bolt else -1
    for number, (by, bx) in enumerate(_BOLTS):
        distance = np.hypot(v - by, u - bx)
        if number == missing:
            hole = distance < 0.07
        else:
            grey = grey - 0.4 / (1 + np.exp(-blur * 2 * (0.06 - distance)))
    return grey, hole


def _defect(
    rng: np.random.Generator, y: Plane, x: Plane, kind: str
) -> tuple[Plane, Bool[np.ndarray, "h w"]]:
    """The change of brightness by a scratch or a spot, and where it is seen."""
    if kind not in ("scratch", "spot"):
        return np.zeros(y.shape), np.zeros(y.shape, bool)
    cy, cx = rng.uniform(0.35, 0.65, 2)
    if kind == "spot":
        radius = rng.uniform(0.03, 0.06)
        shade = np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * radius**2))
        return -0.45 * shade, shade > 0.5
    angle, length = rng.uniform(0, np.pi), rng.uniform(0.12, 0.25)
    along = (y - cy) * np.sin(angle) + (x - cx) * np.cos(angle)
    across = (y - cy) * np.cos(angle) - (x - cx) * np.sin(angle)
    beyond = np.maximum(np.abs(along) - length, 0)
    shade = np.exp(-(across**2 + beyond**2) / (2 * 0.012**2))
    return 0.45 * shade, shade > 0.5


def write_synthetic(
    root: StrPath,
    *,
    category: str = "texture",
    seed: int = 0,
    num_train: int = 20,
    num_good: int = 6,
    num_bad: int = 4,
    size: int = 96,
) -> Dataset:
    """Writes a synthetic category as a folder in the MVTec layout.

    Args:
      root: The folder that will hold the category's.
      category: ``"texture"`` or ``"plate"``.
      seed: Which data set; equal seeds give equal files.
      num_train: Number of normal training images.
      num_good: Number of normal test images.
      num_bad: Number of test images of each kind of defect.
      size: The height and width.

    Returns:
      The data set that was written.

    Raises:
      ValueError: If the category is unknown, or a number out of range.
    """
    if category not in KINDS:
        raise ValueError(f"no category {category!r}; there are: {', '.join(KINDS)}")
    if num_train < 1 or num_good < 0 or num_bad < 0:
        raise ValueError("num_train must be at least 1, num_good and num_bad 0")
    base = files.inside(root, category)
    names = [f"train/{GOOD}/{number:03d}.png" for number in range(num_train)]
    names += [f"test/{GOOD}/{number:03d}.png" for number in range(num_good)]
    for number, name in enumerate(names):
        image, _ = draw(category, number=number, seed=seed, size=size)
        images.write_png(base / name, image)
    for kind in KINDS[category]:
        for number in range(num_bad):
            image, mask = draw(category, kind=kind, number=number, seed=seed, size=size)
            images.write_png(base / "test" / kind / f"{number:03d}.png", image)
            name = f"{number:03d}_mask.png"
            images.write_png(base / "ground_truth" / kind / name, 255 * mask)
    return mvtec(root, category)
