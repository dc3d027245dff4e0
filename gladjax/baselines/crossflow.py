"""Coupling blocks across scales: an invertible network on several feature maps.

Each block permutes the channels of every map, splits them into two halves and scales
and shifts one half by functions of the other half *of all scales*, each half in turn::

    s, t = subnet(a_1, ..., a_l),  y_b = x_b exp(s') + t,  s' = clamp 2/pi atan(s)

The subnetwork is a convolution per scale, then a second one that also receives what its
neighbours say, brought to its grid.

Notation: ``n`` images, ``h w`` the grid of a scale, ``d`` its channels, ``l`` scales.

Differs from the reference in:
1. Neighbours are brought to a scale's grid by bilinear resizing or by averaging after a
   convolution; the reference uses a strided convolution to go down.

Reference: Rudolph, Wehrbein, Rosenhahn, Wandt. "Fully Convolutional Cross-Scale-Flows
for Image-Based Defect Detection". WACV 2022.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from gladjax.baselines import grids, training

Maps = tuple[Array, ...]  # One (n, h, w, d) per scale.

CLAMP = 3.0  # Bound of the log scale, as in the reference.


def transform(
    blocks: tuple[Any, ...], orders: tuple[tuple[Array, ...], ...], maps: Maps
) -> tuple[Maps, Maps]:
    """Runs the flow from standardised features to normal maps.

    Args:
      blocks: The blocks, in order.
      orders: For each block and scale the permutation before it.
      maps: One map ``(n, h, w, d)`` per scale.

    Returns:
      The outputs, and for each scale the log-determinant of each cell ``(n, h, w)``;
      their sum over cells and scales is that of the flow.
    """
    log_det = tuple(jnp.zeros(x.shape[:3], x.dtype) for x in maps)
    for block, order in zip(blocks, orders, strict=True):
        maps = tuple(x[..., o] for x, o in zip(maps, order, strict=True))
        a = tuple(x[..., : x.shape[-1] // 2] for x in maps)
        b = tuple(x[..., x.shape[-1] // 2 :] for x in maps)
        # Each half in turn is changed by what the other says.
        b, log_det = _couple(block["a"], a, b, log_det)
        a, log_det = _couple(block["b"], b, a, log_det)
        pairs = zip(a, b, strict=True)
        maps = tuple(jnp.concatenate(pair, axis=-1) for pair in pairs)
    return maps, log_det


def _couple(net: Any, given: Maps, x: Maps, log_det: Maps) -> tuple[Maps, Maps]:  # noqa: ANN401
    """Scales and shifts ``x`` by functions of ``given``."""
    found, dets = [], []
    for st, one, det in zip(_subnet(net, given), x, log_det, strict=True):
        s, t = jnp.split(st, 2, axis=-1)
        s = CLAMP * (2 / math.pi) * jnp.arctan(s)
        found.append(one * jnp.exp(s) + t)
        dets.append(det + jnp.sum(s, axis=-1))
    return tuple(found), tuple(dets)


def _subnet(net: Any, maps: Maps) -> list[Array]:  # noqa: ANN401
    """Returns scales and shifts for each scale, from the maps of all."""
    hidden = [
        jax.nn.leaky_relu(_conv(x, w), 0.1)
        for x, w in zip(maps, net["first"], strict=True)
    ]
    out = []
    for i, (x, w) in enumerate(zip(hidden, net["own"], strict=True)):
        total = _conv(x, w)
        for j in (i - 1, i + 1):
            if 0 <= j < len(hidden):
                said = _conv(hidden[j], net["across"][f"{j}{i}"])
                total = total + _bring(said, (x.shape[1], x.shape[2]))
        out.append(total * net["gain"][i])
    return out


def _bring(x: Float[Array, "n h w c"], size: grids.Size) -> Float[Array, "n _h _w c"]:
    """Averages a finer map down to a grid where that divides, else resizes it."""
    n, h, w, c = x.shape
    if h > size[0] and h % size[0] == 0 and w % size[1] == 0:
        blocks = x.reshape(n, size[0], h // size[0], size[1], w // size[1], c)
        return jnp.mean(blocks, axis=(2, 4))
    return grids.resize(x, size)


def _conv(x: Array, weight: Array) -> Array:
    """Convolves by 3 x 3 weights, zeros outside."""
    return jax.lax.conv_general_dilated(
        x,
        weight,
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=grids.HIGHEST,
    )


def init(
    key: PRNGKeyArray,
    dims: Sequence[int],
    dtype: DTypeLike,
    *,
    num_blocks: int = 4,
    num_hidden: int = 64,
) -> tuple[Any, ...]:
    """Returns blocks that start at the identity: their gains are 0.

    Args:
      key: Draws the weights.
      dims: Channels of each scale.
      dtype: Type of the parameters.
      num_blocks: Number of blocks.
      num_hidden: Channels inside the subnetworks.
    """
    rng = training.generator(key)
    hidden = num_hidden

    def weight(i: int, j: int) -> Array:
        drawn = rng.normal(size=(3, 3, i, j)) * (2 / (9 * i)) ** 0.5
        return jnp.asarray(drawn, dtype)

    def net(given: Sequence[int], changed: Sequence[int]) -> dict[str, Any]:
        scales = range(len(dims))
        pairs = [(j, i) for i in scales for j in (i - 1, i + 1) if j in scales]
        return {
            "first": [weight(d, hidden) for d in given],
            "own": [weight(hidden, 2 * d) for d in changed],
            "across": {f"{j}{i}": weight(hidden, 2 * changed[i]) for j, i in pairs},
            "gain": [jnp.zeros((), dtype) for _ in scales],
        }

    a, b = [d // 2 for d in dims], [d - d // 2 for d in dims]
    return tuple({"a": net(a, b), "b": net(b, a)} for _ in range(num_blocks))
