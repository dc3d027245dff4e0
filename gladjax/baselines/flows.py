"""Conditional coupling blocks: an invertible network on vectors, with its Jacobian.

Each block scales and shifts one half ``x_b`` of a vector by functions of the other half
``x_a`` and of a code ``c`` that stays outside, scales and shifts every feature by
numbers of its own, then permutes::

    s, t = subnet(x_a, c),  y_b = x_b exp(s') + t,  s' = clamp tanh(0.1 s)

The logarithm of the Jacobian's determinant is the sum of the log scales.

Notation: ``n`` vectors, ``d`` features, ``p`` features of a code, ``b`` blocks.

Differs from the reference in:
1. Blocks permute features; CFlow-AD multiplies by a random rotation.

Reference: Dinh, Sohl-Dickstein, Bengio. "Density Estimation Using Real NVP". ICLR 2017.
Condition and clamp: Ardizzone et al. "Guided Image Generation with Conditional
Invertible Neural Networks". arXiv:1907.02392, 2019.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, PRNGKeyArray

from gladjax.baselines import grids, training
from gladjax.pytree import pytree

CLAMP = 1.9  # Bound of the log scale of a block, as in the reference.


@pytree
class Blocks:
    """Parameters of the blocks of one flow, stacked over blocks."""

    hidden: Float[Array, "_b _i _j"]
    hidden_bias: Float[Array, "_b _j"]
    out: Float[Array, "_b _j _k"]
    out_bias: Float[Array, "_b _k"]
    log_scale: Float[Array, "_b _d"]
    shift: Float[Array, "_b _d"]


def init(
    key: PRNGKeyArray,
    d: int,
    dtype: DTypeLike,
    *,
    num_blocks: int = 8,
    num_code: int = 128,
) -> Blocks:
    """Returns blocks that start near the identity.

    Args:
      key: Draws the weights.
      d: Features of a vector.
      dtype: Type of the parameters.
      num_blocks: Number of blocks.
      num_code: Features of a code.
    """
    half = d // 2
    rng = training.generator(key)
    b, i, j, k = num_blocks, half + num_code, 2 * d, 2 * (d - half)
    return Blocks(
        hidden=jnp.asarray(rng.normal(size=(b, i, j)) * (2 / i) ** 0.5, dtype),
        hidden_bias=jnp.zeros((b, j), dtype),
        out=jnp.asarray(rng.normal(size=(b, j, k)) * 0.1 / j**0.5, dtype),
        out_bias=jnp.zeros((b, k), dtype),
        log_scale=jnp.zeros((b, d), dtype),
        shift=jnp.zeros((b, d), dtype),
    )


def normal_log_prob(z: Float[Array, "n d"]) -> Float[Array, " n"]:
    """Returns the standard normal log-density."""
    return -0.5 * (jnp.sum(z**2, axis=1) + z.shape[1] * math.log(2 * math.pi))


def transform(
    blocks: Blocks,
    order: Int[Array, "b d"],
    x: Float[Array, "n d"],
    code: Float[Array, "n p"],
) -> tuple[Float[Array, "n d"], Float[Array, " n"]]:
    """Runs a flow from features to normal vectors.

    Args:
      blocks: The blocks, in order.
      order: Permutation after each block.
      x: Standardised features.
      code: Codes of their positions.

    Returns:
      The vectors, and the logarithm of the determinant of the flow's Jacobian.
    """
    half = x.shape[1] // 2

    def block(
        carry: tuple[Array, Array], one: tuple[Blocks, Array]
    ) -> tuple[tuple[Array, Array], None]:
        (x, log_det), (now, order) = carry, one
        a, b = x[:, :half], x[:, half:]
        h = jnp.concatenate([a, code], axis=1)
        h = jax.nn.relu(_affine(h, now.hidden, now.hidden_bias))
        s, t = jnp.split(_affine(h, now.out, now.out_bias), 2, axis=1)
        s = CLAMP * jnp.tanh(0.1 * s)
        y = jnp.concatenate([a, b * jnp.exp(s) + t], axis=1)
        y = y * jnp.exp(now.log_scale)[None] + now.shift[None]
        log_det = log_det + jnp.sum(s, axis=1) + jnp.sum(now.log_scale)
        return (y[:, order], log_det), None

    start = x, jnp.zeros(x.shape[0], x.dtype)
    (z, log_det), _ = jax.lax.scan(block, start, (blocks, order))
    return z, log_det


def encode(size: grids.Size, num_code: int) -> Float[np.ndarray, "_h _w _p"]:
    """Returns sinusoidal codes of rows and columns.

    Args:
      size: Height and width of the grid.
      num_code: Features of a code, a multiple of 4; one half for columns, the other for
        rows, sines and cosines of ``num_code / 4`` wavelengths from ``2 pi`` up.
    """
    quarter = num_code // 4
    rate = 10000.0 ** (-np.arange(quarter) / quarter)
    parts = []
    for cells, shape in ((size[1], (1, -1)), (size[0], (-1, 1))):
        angle = np.arange(cells)[:, None] * rate
        wave = np.concatenate([np.sin(angle), np.cos(angle)], axis=1)
        wave = wave.reshape(*shape, num_code // 2)
        parts.append(np.broadcast_to(wave, (*size, num_code // 2)))
    return np.concatenate(parts, axis=-1)


def _affine(x: Array, weight: Array, bias: Array) -> Array:
    """Returns ``x W + b``."""
    return jnp.matmul(x, weight, precision=grids.HIGHEST) + bias[None]
