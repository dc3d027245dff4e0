"""Bicubic interpolation and warping, with a mask of what is known.

Keys' cubic convolution is exact on quadratics, needs no prefilter and touches sixteen
pixels; at integer coordinates it returns the pixel itself, bit by bit. A warped image
has a value everywhere and a mask that says which values were seen: outside the image
the nearest pixel is repeated, so that no artificial edge disturbs a network, and the
mask is false.

Notation: ``x`` and ``y`` are columns and rows, integers at pixel centres; ``T`` maps
pixels of the output to pixels of the image.

Differs from the reference in: (1) a pixel is known where the motion takes it onto a
pixel of the image, that is, into ``[-1/2, w - 1/2] x [-1/2, h - 1/2]``.

Reference: Keys. "Cubic Convolution Interpolation for Digital Image Processing". IEEE
Trans. ASSP 29(6), 1981, with a = -1/2.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Num

from gladjax import programs

__all__ = ["as_float", "bicubic", "warp", "warp_batch"]

AnyArray = Array | np.ndarray


def as_float(image: Num[AnyArray, "..."]) -> Float[Array, "..."]:
    """Returns an image as an array of float32, or of float64 if it was that.

    Half precision is widened; integers become float32.
    """
    array = jnp.asarray(image)
    wide = array.dtype == jnp.float64
    return array.astype(jnp.float64 if wide else jnp.float32)


def _weights(f: Float[Array, " n"]) -> tuple[Array, Array, Array, Array]:
    """Returns Keys' weights of the pixels at -1, 0, 1, 2 for the fraction ``f``."""
    f2 = f * f
    f3 = f2 * f
    return (
        (2 * f2 - f3 - f) / 2,
        (3 * f3 - 5 * f2 + 2) / 2,
        (4 * f2 - 3 * f3 + f) / 2,
        (f3 - f2) / 2,
    )


def bicubic(
    image: Float[Array, "h w"], x: Float[Array, " n"], y: Float[Array, " n"]
) -> Float[Array, " n"]:
    """Returns an image between its pixels.

    Args:
      image: The image.
      x: Columns, in pixels, finite.
      y: Rows, in pixels, finite.

    Returns:
      The interpolated values. Beyond the centres of the border pixels the image is
      continued by its nearest pixel.

    References:
      Keys, Eq. 15.
    """
    h, w = image.shape
    x = jnp.clip(x, 0, w - 1)
    y = jnp.clip(y, 0, h - 1)
    column, row = jnp.floor(x), jnp.floor(y)
    across, down = _weights(x - column), _weights(y - row)
    column, row = column.astype(jnp.int32), row.astype(jnp.int32)
    columns = [jnp.clip(column + i, 0, w - 1) for i in (-1, 0, 1, 2)]
    flat = image.reshape(-1)
    total = jnp.zeros_like(x)
    for i, weight in zip((-1, 0, 1, 2), down, strict=True):
        start = jnp.clip(row + i, 0, h - 1) * w
        line = jnp.zeros_like(x)
        for c, v in zip(columns, across, strict=True):
            line += v * flat.at[start + c].get(mode="promise_in_bounds")
        total += weight * line
    return total


@functools.partial(programs.Program, static=("shape",))
def warp(
    image: Num[AnyArray, "h w *c"],
    transform: Float[AnyArray, "3 3"],
    shape: tuple[int, int],
) -> tuple[Float[Array, "_h _w *c"], Bool[Array, "_h _w"]]:
    """Returns an image in the frame of the reference: ``warped(p) = image(T p)``.

    Args:
      image: A grey image or one with channels last, 0 to 255.
      transform: The motion from pixels of the output to pixels of the image.
      shape: Height and width of the output.

    Returns:
      The warped image, without NaN whatever the arguments, and its validity: true
      where ``T p`` lies on a pixel of the image and the value is finite. Elsewhere the
      nearest pixel is repeated, and 0 stands for what is not finite.

    Example:
      >>> image = jnp.arange(6.0).reshape(2, 3)
      >>> shift = jnp.eye(3).at[0, 2].set(1.0)
      >>> warped, valid = warp(image, shift, (2, 3))
      >>> print(warped[0], valid[0])
      [1. 2. 2.] [ True  True False]
    """
    pixels = as_float(image)
    T = jnp.asarray(transform).astype(pixels.dtype)
    h, w = pixels.shape[:2]
    rows, columns = jnp.meshgrid(*map(jnp.arange, shape), indexing="ij")
    X = jnp.stack([columns.ravel(), rows.ravel()]).astype(pixels.dtype)
    moved = jnp.matmul(T[:, :2], X, precision="highest") + T[:, 2:]
    ahead = moved[2] > 1e-6
    depth = jnp.where(ahead, moved[2], 1)
    x, y = moved[0] / depth, moved[1] / depth
    known = ahead & (x >= -0.5) & (x <= w - 0.5) & (y >= -0.5) & (y <= h - 0.5)
    x, y = (jnp.nan_to_num(v, nan=0.0) for v in (x, y))
    channels = pixels.reshape(h, w, -1)
    values = [bicubic(channels[..., c], x, y) for c in range(channels.shape[2])]
    stacked = jnp.stack(values, axis=-1)
    known &= jnp.all(jnp.isfinite(stacked), axis=-1)
    stacked = jnp.where(jnp.isfinite(stacked), stacked, 0)
    return stacked.reshape(*shape, *pixels.shape[2:]), known.reshape(shape)


@functools.partial(programs.Program, static=("shape",))
def warp_batch(
    images: Num[AnyArray, "n h w *c"],
    transforms: Float[AnyArray, "n 3 3"],
    shape: tuple[int, int],
) -> tuple[Float[Array, "n _h _w *c"], Bool[Array, "n _h _w"]]:
    """Returns many images in the frame of the reference, one after another.

    Args:
      images: Images of one size.
      transforms: A motion for each.
      shape: Height and width of the output.

    Returns:
      What `warp` returns for each image.
    """
    pairs = (jnp.asarray(images), jnp.asarray(transforms))
    return jax.lax.map(lambda pair: warp(*pair, shape), pairs)
