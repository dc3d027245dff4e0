"""Randomised data sets: every image turned and shifted, from a seed.

The paper measures robustness to pose on a version of its data in which each image got a
random rotation and a small jitter of position (its Table 4; five versions). Here that
is a pure function of a key and images; the motions are drawn first, so that a mask
moves with its image and a study knows the truth.

Notation: ``R`` is the motion of one image, ``moved(p) = image(R p)``, ``p`` in pixels.
A registration ``T`` of the moved image belongs to ``R T`` of the image itself.

Differs from the reference in: (1) the paper does not say how it fills the border; here
each pixel from outside shows the nearest border of the image, blurred, so that the
background goes on and nothing is drawn out in streaks.

Reference: Artola, Kolodziej, Morel, Ehret. "GLAD: A Global-to-Local Anomaly Detector".
WACV 2023, section 4.4, Table 4.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Key, Num

from gladjax import align
from gladjax.align import sampling, transform

__all__ = ["apply", "apply_mask", "draw", "version"]

AnyArray = Array | np.ndarray


def draw(
    key: Key[Array, ""],
    num_images: int,
    shape: tuple[int, int],
    *,
    max_angle: float = math.pi,
    max_shift: float = 0.04,
) -> Float[Array, "n 3 3"]:
    """Returns random motions about the centre of an image.

    Args:
      key: Randomness.
      num_images: How many.
      shape: Height and width of the images.
      max_angle: Largest turn either way, in radians; half a turn means any angle.
      max_shift: Largest shift either way, as a fraction of each side.

    Returns:
      Motions ``R``; angle and shifts are uniform and independent.

    Raises:
      ValueError: If a limit is negative.

    Example:
      >>> R = draw(jax.random.key(0), 2, (64, 64), max_angle=0.0, max_shift=0.0)
      >>> print(bool(jnp.all(R == jnp.eye(3)[None])))
      True
    """
    if max_angle < 0 or max_shift < 0:
        raise ValueError(f"max_angle={max_angle} or max_shift={max_shift} is negative")
    by_angle, by_shift = jax.random.split(key)
    angle = max_angle * jax.random.uniform(by_angle, (num_images,), minval=-1)
    side = jnp.asarray([shape[1], shape[0]], angle.dtype) * max_shift
    shift = side[None, :] * jax.random.uniform(by_shift, (num_images, 2), minval=-1)
    return jax.vmap(functools.partial(transform.euclidean, shape=shape))(angle, shift)


@jax.jit
def apply(
    image: Num[AnyArray, "h w *c"], motion: Float[Array, "3 3"]
) -> tuple[Float[Array, "h w *c"], Bool[Array, "h w"]]:
    """Returns a moved image whose border is filled by the background.

    Args:
      image: Grey image or channels last, 0 to 255.
      motion: ``R``.

    Returns:
      ``image(R p)`` in the frame of the image, and the pixels that it knows; the
      others show the nearest border of the blurred image.
    """
    h, w = image.shape[:2]
    moved, valid = align.warp(image, motion, (h, w))
    behind, _ = align.warp(_blur(sampling.as_float(image)), motion, (h, w))
    known = valid.reshape(h, w, *(1,) * (moved.ndim - 2))
    return jnp.where(known, moved, behind), valid


def _blur(image: Float[Array, "h w *c"]) -> Float[Array, "h w *c"]:
    """Returns an image blurred by a Gaussian of 1/32 of its shorter side."""
    sigma = min(image.shape[:2]) / 32
    reach = math.ceil(3 * sigma)
    taps = np.exp(-0.5 * np.square(np.arange(-reach, reach + 1) / sigma))
    taps = jnp.asarray(taps / taps.sum(), image.dtype)
    for axis in (0, 1):
        width = [(0, 0)] * image.ndim
        width[axis] = (reach, reach)
        padded = jnp.moveaxis(jnp.pad(image, width, mode="edge"), axis, 0)
        rows = padded.reshape(padded.shape[0], -1)
        filtered = jax.vmap(
            lambda line: jnp.convolve(line, taps, mode="valid"), in_axes=1, out_axes=1
        )(rows)
        image = jnp.moveaxis(filtered.reshape(-1, *padded.shape[1:]), 0, axis)
    return image


@jax.jit
def apply_mask(
    mask: Bool[AnyArray, "h w"], motion: Float[Array, "3 3"]
) -> Bool[Array, "h w"]:
    """Returns a moved mask, by the nearest pixel; false where nothing is known.

    Args:
      mask: True where a pixel is anomalous.
      motion: ``R``, the motion of the mask's image.
    """
    h, w = mask.shape
    rows, columns = jnp.meshgrid(jnp.arange(h), jnp.arange(w), indexing="ij")
    points = jnp.stack([columns.ravel(), rows.ravel()], axis=1).astype(motion.dtype)
    x, y = jnp.round(transform.apply(motion, points)).astype(jnp.int32).T
    inside = (x >= 0) & (x < w) & (y >= 0) & (y < h)
    picked = jnp.asarray(mask)[jnp.clip(y, 0, h - 1), jnp.clip(x, 0, w - 1)]
    return (picked & inside).reshape(h, w)


def version(
    key: Key[Array, ""],
    images: Num[AnyArray, "n h w *c"],
    *,
    max_angle: float = math.pi,
    max_shift: float = 0.04,
) -> tuple[Float[Array, "n h w *c"], Float[Array, "n 3 3"]]:
    """Returns one randomised version of a stack of images.

    Args:
      key: Randomness; the five versions of Table 4 are five keys.
      images: Images of one size, 0 to 255.
      max_angle: As for `draw`.
      max_shift: As for `draw`.

    Returns:
      The moved images and their motions ``R``.

    Raises:
      ValueError: As `draw`.
    """
    n, h, w = images.shape[:3]
    motions = draw(key, n, (h, w), max_angle=max_angle, max_shift=max_shift)
    pairs = (jnp.asarray(images), motions)
    moved = jax.lax.map(lambda pair: apply(*pair)[0], pairs)
    return moved, motions
