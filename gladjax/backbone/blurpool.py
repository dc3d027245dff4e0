"""Subsampling by two behind a binomial low-pass filter.

Taking every second value of a map aliases: a shift of the image by one pixel changes
the result. Zhang puts a small blur in front. The filter is the outer product of a
binomial row with itself, so it is applied as two passes of one row, each a sum of
shifted slices.

Notation: ``size`` is the side of the filter, 1 to 7; padding reflects, edge not
repeated, ``floor((size - 1) / 2)`` before and the ceiling of it behind, so that a side
of ``s`` becomes ``ceil(s / 2)``.

Differs from the reference in:

1. Two passes of ``size`` terms instead of one of ``size ** 2``: the same sum in another
   order.

Reference: Zhang. "Making Convolutional Networks Shift-Invariant Again". ICML 2019.
"""

import math

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

SIZES = range(1, 8)


def row(size: int) -> np.ndarray:
    """Returns the binomial row of a size, normalised to sum 1, in float64.

    Args:
      size: Number of entries, 1 to 7.

    Raises:
      ValueError: If the size is another.
    """
    if size not in SIZES:
        raise ValueError(f"filter_size must be 1 to 7 or None, got {size}")
    entries = [math.comb(size - 1, index) for index in range(size)]
    return np.asarray(entries, np.float64) / 2 ** (size - 1)


def square(size: int) -> np.ndarray:
    """Returns the filter itself, ``(size, size)``, as checkpoints hold it.

    Args:
      size: Side of the filter, 1 to 7.
    """
    return np.outer(row(size), row(size))


def blur_pool(x: Float[Array, "n h w c"], size: int) -> Float[Array, "n _h _w c"]:
    """Blurs maps and takes every second value in both directions.

    Args:
      x: Maps, each side longer than half the filter.
      size: Side of the filter, 1 to 7; 1 does not blur.

    Returns:
      Maps of sides ``ceil(h / 2)`` and ``ceil(w / 2)``.

    Raises:
      ValueError: If the size is another, or a map is too small to reflect.
    """
    weights = row(size)
    before, behind = (size - 1) // 2, size // 2
    if min(x.shape[1:3]) <= behind:
        raise ValueError(f"a map of {x.shape[1:3]} is too small for a blur of {size}")
    for axis in (1, 2):
        pads = [(0, 0)] * 4
        pads[axis] = (before, behind)
        padded = jnp.pad(x, pads, mode="reflect")
        count = -(-x.shape[axis] // 2)
        terms = [
            lax.slice_in_dim(padded, i, i + 2 * count - 1, 2, axis)
            * jnp.asarray(weight, x.dtype)
            for i, weight in enumerate(weights)
        ]
        x = sum(terms[1:], start=terms[0])
    return x
