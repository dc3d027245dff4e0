"""A U-shaped convolutional network, with or without skips.

Each level halves the grid: two 3 x 3 convolutions with normalisation and ReLU, then a
maximum over 2 x 2 cells. The way back doubles the grid bilinearly, and with skips
appends what that level held on the way down.

Notation: ``n`` images, ``c`` channels, ``width`` channels of the first level (doubled
at each further one), ``depth`` halvings.

Differs from the reference in:
1. Channels are normalised in groups per image, not over the batch, so that small
   batches serve and nothing differs between training and test.

Reference: Ronneberger, Fischer, Brox. "U-Net". MICCAI 2015. Normalisation: Wu, He.
"Group Normalization". ECCV 2018.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from gladjax.baselines import grids, training

Params = dict[str, Any]


def init(
    key: PRNGKeyArray,
    channels: tuple[int, int],
    *,
    width: int = 32,
    depth: int = 4,
    skip: bool = True,
    dtype: DTypeLike = jnp.float32,
) -> Params:
    """Draws the parameters of a network.

    Args:
      key: Draws the weights.
      channels: Channels of the input and of the output.
      width: Channels of the first level.
      depth: Number of halvings.
      skip: Whether the way back sees the way down.
      dtype: Type of the parameters.

    Returns:
      A dictionary of arrays; `apply` recognises skips by their shapes.
    """
    rng = training.generator(key)

    def conv(i: int, o: int) -> Params:
        scale = (2 / (9 * i)) ** 0.5
        weight = jnp.asarray(rng.normal(size=(3, 3, i, o)) * scale, dtype)
        return {
            "weight": weight,
            "gain": jnp.ones(o, dtype),
            "bias": jnp.zeros(o, dtype),
        }

    widths = [width * 2**level for level in range(depth + 1)]
    down, up, before = [], [], channels[0]
    for now in widths:
        down.append([conv(before, now), conv(now, now)])
        before = now
    for now in reversed(widths[:-1]):
        up.append([conv(before + (now if skip else 0), now), conv(now, now)])
        before = now
    return {"down": down, "up": up, "out": conv(before, channels[1])}


def apply(params: Params, x: Float[Array, "n h w i"]) -> Float[Array, "n h w o"]:
    """Runs a network.

    Args:
      params: Parameters from `init`.
      x: Images whose sides ``2 ** depth`` divides.

    Returns:
      The output of the last convolution, neither normalised nor bounded.

    Raises:
      ValueError: If a side is not divisible.
    """
    depth = len(params["up"])
    if x.shape[1] % 2**depth or x.shape[2] % 2**depth:
        raise ValueError(f"sides {x.shape[1:3]} must be multiples of {2**depth}")
    held = []
    for level, block in enumerate(params["down"]):
        x = x if level == 0 else _halve(x)
        x = _unit(block[1], _unit(block[0], x))
        held.append(x)
    for block, skip in zip(params["up"], reversed(held[:-1]), strict=True):
        x = grids.resize(x, (skip.shape[1], skip.shape[2]))
        if block[0]["weight"].shape[2] > x.shape[-1]:
            x = jnp.concatenate([x, skip], axis=-1)
        x = _unit(block[1], _unit(block[0], x))
    return _conv(params["out"], x) + params["out"]["bias"][None, None, None]


def _unit(layer: Params, x: Array) -> Array:
    """Convolution, normalisation in groups of up to 8 channels, ReLU."""
    x = _conv(layer, x)
    n, h, w, c = x.shape
    size = next(s for s in (8, 4, 2, 1) if c % s == 0)
    groups = x.reshape(n, h, w, c // size, size)
    e = groups - jnp.mean(groups, axis=(1, 2, 4), keepdims=True)
    variance = jnp.mean(e**2, axis=(1, 2, 4), keepdims=True)
    x = (e * jax.lax.rsqrt(variance + 1e-5)).reshape(n, h, w, c)
    return jax.nn.relu(
        x * layer["gain"][None, None, None] + layer["bias"][None, None, None]
    )


def _conv(layer: Params, x: Array) -> Array:
    """Convolves by 3 x 3 weights, zeros outside."""
    return jax.lax.conv_general_dilated(
        x,
        layer["weight"],
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=grids.HIGHEST,
    )


def _halve(x: Float[Array, "n h w c"]) -> Float[Array, "n _h _w c"]:
    """Takes the maximum of 2 x 2 cells.

    By pairs: the gradient of a maximum over axes divides by how many are equal to it,
    which is nothing at all where a compiler rounds the recomputed values differently.
    """
    x = jnp.maximum(x[:, ::2], x[:, 1::2])
    return jnp.maximum(x[:, :, ::2], x[:, :, 1::2])
