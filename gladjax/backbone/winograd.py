"""The 3 x 3 convolution with 2.25 times fewer products.

Winograd's F(2 x 2, 3 x 3): two by two outputs come from four by four inputs through 16
products instead of 36. Inputs and outputs are transformed by additions only, kernels
once, when the network is loaded; what remains are 16 matrix products::

    y = A' [ (G g G') * (B' x B) ] A

On CPU this takes a little more than half the time of XLA's convolution for one image at
a time (for batches the intermediate maps leave the cache, and nothing is gained).

Notation: ``g`` kernel, ``U = G g G'`` transformed kernel, ``x`` input tile, ``y``
output tile; a row of ``G`` is a point of interpolation (0, 1, -1, infinity).

Differs from the reference in: nothing.

Reference: Lavin, Gray. "Fast Algorithms for Convolutional Neural Networks". CVPR 2016.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

NAMES = tuple(f"winograd{i}{j}" for i in range(4) for j in range(4))
"""Names of the 16 matrices of a transformed kernel among a layer's weights."""

_G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])


def transform(kernel: Float[np.ndarray, "3 3 c d"]) -> list[Float[np.ndarray, "c d"]]:
    """Returns the transformed kernel ``G g G'``, computed in float64.

    Args:
      kernel: A kernel.

    Returns:
      Its 16 matrices, row by row. They stay apart because XLA copies a matrix that it
      slices out of a larger array.
    """
    wide = np.asarray(kernel, np.float64)
    rows = np.tensordot(_G, wide, axes=(1, 0))
    both = np.moveaxis(np.tensordot(_G, rows, axes=(1, 1)), 0, 1)
    return [both[i, j].astype(kernel.dtype) for i in range(4) for j in range(4)]


def recover(kernels: Sequence[Float[Array, "c d"]]) -> Float[Array, "3 3 c d"]:
    """Returns the kernel behind a transformed one, up to rounding.

    Args:
      kernels: The 16 matrices of a transformed kernel.
    """
    square = [kernels[4 * i : 4 * i + 4] for i in range(4)]
    columns = [
        [row[0] for row in square],
        [row[1] - row[2] for row in square],
        [row[3] for row in square],
    ]
    rows = [[u[0], u[1] - u[2], u[3]] for u in columns]
    return jnp.stack([jnp.stack(each) for each in rows], axis=1)


def convolve(
    x: Float[Array, "n h w c"], kernels: Sequence[Float[Array, "c d"]]
) -> Float[Array, "n h w d"]:
    """Returns the cross-correlation with zero padding of 1 and stride 1.

    Args:
      x: Maps of any size.
      kernels: The 16 matrices of a transformed kernel.

    Returns:
      Maps of the same size; sums run in float32 or wider, whatever the input is.
    """
    n, h, w, c = x.shape
    dtype = x.dtype if x.dtype.itemsize >= 4 else jnp.dtype(jnp.float32)
    tall, wide = -(-h // 2), -(-w // 2)
    pads = ((0, 0), (1, 1 + h % 2), (1, 1 + w % 2), (0, 0))
    padded = jnp.pad(x.astype(dtype), pads)
    products = []
    for i, row in enumerate(_input(padded, 1, tall)):
        for j, tile in enumerate(_input(row, 2, wide)):
            flat = tile.reshape(n * tall * wide, c)
            kernel = kernels[4 * i + j].astype(dtype)
            products.append(jnp.matmul(flat, kernel, precision=lax.Precision.HIGHEST))
    columns = [_output(products[j::4]) for j in range(4)]
    tiles = [_output([column[i] for column in columns]) for i in range(2)]
    shape = (n, tall, wide, kernels[0].shape[1])
    y = jnp.stack(
        [jnp.stack([tile.reshape(shape) for tile in row], axis=3) for row in tiles],
        axis=2,
    )
    y = y.reshape(n, 2 * tall, 2 * wide, shape[3])
    return y[:, :h, :w].astype(x.dtype)


def _input(x: Array, axis: int, count: int) -> list[Array]:
    """``B' x`` along one axis, for all tiles at once."""
    a, b, c, d = (lax.slice_in_dim(x, i, i + 2 * count - 1, 2, axis) for i in range(4))
    return [a - c, b + c, c - b, b - d]


def _output(m: list[Array]) -> list[Array]:
    """``A' m`` along one axis."""
    return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]
