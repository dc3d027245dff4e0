"""DINOv2 vision transformers, see `gladjax.backbone.vit`."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from gladjax.backbone.layers import Dense
from gladjax.backbone.network import LAYERS
from gladjax.backbone.vit import Spec

_PRECISION = lax.Precision.HIGHEST
_EPSILON = 1e-6


class Scale(nnx.Module):
    """A learned factor for each channel."""

    def __init__(self, dim: int) -> None:
        """Allocates zero weights."""
        self.scale = nnx.Param(jnp.zeros((dim,)))

    def __call__(self, x: Float[Array, "n t d"]) -> Float[Array, "n t d"]:
        """Multiplies."""
        return x * self.scale[...][None, None, :]


class LayerNorm(nnx.Module):
    """Mean 0 and variance 1 over the channels of each token, then scale and offset."""

    def __init__(self, dim: int) -> None:
        """Allocates zero weights."""
        self.scale = nnx.Param(jnp.zeros((dim,)))
        self.offset = nnx.Param(jnp.zeros((dim,)))

    def __call__(self, x: Float[Array, "n t d"]) -> Float[Array, "n t d"]:
        """Normalises."""
        centred = x - jnp.mean(x, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        normed = centred * lax.rsqrt(variance + _EPSILON)
        return normed * self.scale[...][None, None, :] + self.offset[...][None, None, :]


class Attention(nnx.Module):
    """Multi-head self-attention."""

    def __init__(self, dim: int, num_heads: int) -> None:
        """Allocates zero weights."""
        self.num_heads = num_heads
        self.inputs = Dense(dim, 3 * dim)
        self.outputs = Dense(dim, dim)

    def __call__(self, x: Float[Array, "n t d"]) -> Float[Array, "n t d"]:
        """Attends."""
        n, t, d = x.shape
        size = d // self.num_heads
        queries, keys, values = jnp.moveaxis(
            self.inputs(x).reshape(n, t, 3, self.num_heads, size), 2, 0
        )
        scores = jnp.einsum("nqhc,nkhc->nhqk", queries, keys, precision=_PRECISION)
        shares = jax.nn.softmax(scores * jnp.asarray(size**-0.5, x.dtype), axis=-1)
        mixed = jnp.einsum("nhqk,nkhc->nqhc", shares, values, precision=_PRECISION)
        return self.outputs(mixed.reshape(n, t, d))


class Block(nnx.Module):
    """Attention and perceptron, each normalised before and scaled after."""

    def __init__(self, spec: Spec) -> None:
        """Allocates zero weights."""
        d = spec.dim
        self.norm1, self.norm2 = LayerNorm(d), LayerNorm(d)
        self.scale1, self.scale2 = Scale(d), Scale(d)
        self.attention = Attention(d, spec.num_heads)
        self.rise, self.fall = Dense(d, 4 * d), Dense(4 * d, d)

    def __call__(self, x: Float[Array, "n t d"]) -> Float[Array, "n t d"]:
        """Applies the block."""
        x = x + self.scale1(self.attention(self.norm1(x)))
        inner = jax.nn.gelu(self.rise(self.norm2(x)), approximate=False)
        return x + self.scale2(self.fall(inner))


class VisionTransformer(nnx.Module):
    """The network as a map from normalised images to named maps."""

    def __init__(self, spec: Spec) -> None:
        """Allocates zero weights."""
        self.spec = spec
        d, side = spec.dim, spec.patch
        self.kernel = nnx.Param(jnp.zeros((side, side, 3, d)))
        self.bias = nnx.Param(jnp.zeros((d,)))
        self.token = nnx.Param(jnp.zeros((1, 1, d)))
        self.position = nnx.Param(jnp.zeros((1, 1 + spec.grid**2, d)))
        if spec.num_registers:
            self.register = nnx.Param(jnp.zeros((1, spec.num_registers, d)))
        for index in range(spec.depth):
            setattr(self, f"block{index}", Block(spec))
        self.norm = LayerNorm(d)

    def __call__(self, images: Float[Array, "n h w 3"]) -> dict[str, Array]:
        """Returns the maps of the taps; sides must be multiples of the patch."""
        spec = self.spec
        n, height, width, _ = images.shape
        h, w = height // spec.patch, width // spec.patch
        if (h * spec.patch, w * spec.patch) != (height, width):
            raise ValueError(
                f"a {height} x {width} image does not divide into patches of "
                f"{spec.patch}"
            )
        patches = images.reshape(n, h, spec.patch, w, spec.patch, 3)
        patches = patches.transpose(0, 1, 3, 2, 4, 5).reshape(n, h * w, -1)
        kernel = self.kernel[...].reshape(-1, spec.dim)
        x = jnp.matmul(patches, kernel, precision=_PRECISION)
        x = x + self.bias[...][None, None, :]
        position = self.position[...]
        first = self.token[...] + position[:, :1]
        heads = [first]
        if spec.num_registers:
            heads.append(self.register[...])
        x = x + _positions(position[0, 1:], spec, (h, w))[None]
        before = [jnp.broadcast_to(each, (n, *each.shape[1:])) for each in heads]
        x = jnp.concatenate([*before, x], axis=1)
        maps = {}
        taps = dict(zip(_taps(spec), LAYERS, strict=True))
        for index in range(spec.depth):
            x = getattr(self, f"block{index}")(x)
            if index in taps:
                tokens = self.norm(x)[:, 1 + spec.num_registers :]
                maps[taps[index]] = tokens.reshape(n, h, w, spec.dim)
        return maps


def _taps(spec: Spec) -> tuple[int, int, int]:
    """Blocks after which half, three quarters and all are done."""
    return spec.depth // 2 - 1, 3 * spec.depth // 4 - 1, spec.depth - 1


def _positions(
    position: Float[Array, "p d"], spec: Spec, grid: tuple[int, int]
) -> Float[Array, "t d"]:
    """Learned positions, interpolated bicubically to another grid."""
    side = spec.grid
    if grid == (side, side):
        return position
    square = position.reshape(side, side, spec.dim)
    rows, columns = (
        jnp.asarray(_bicubic(side, size, smooth=spec.num_registers > 0), position.dtype)
        for size in grid
    )
    resized = jnp.einsum("hi,wj,ijd->hwd", rows, columns, square, precision=_PRECISION)
    return resized.reshape(-1, spec.dim)


def _bicubic(before: int, after: int, *, smooth: bool) -> np.ndarray:
    """The matrix of a bicubic interpolation between pixel centres, edges repeated.

    Without smoothing, the kernel has ``a = -0.75`` and a support of two samples; with
    it (networks with registers), ``a = -0.5``, widened where the grid shrinks and cut
    at the edges, which is Pillow's antialiasing.
    """
    a = -0.5 if smooth else -0.75
    ratio = before / after
    widening = max(ratio, 1.0) if smooth else 1.0
    matrix = np.zeros((after, before))
    for row in range(after):
        centre = (row + 0.5) * ratio - 0.5
        reach = 2 * widening
        for column in range(math.ceil(centre - reach), math.floor(centre + reach) + 1):
            weight = _cubic(abs(column - centre) / widening, a)
            if not smooth:
                matrix[row, min(max(column, 0), before - 1)] += weight
            elif 0 <= column < before:
                matrix[row, column] += weight
    return matrix / matrix.sum(axis=1, keepdims=True)


def _cubic(x: float, a: float) -> float:
    """Keys' cubic convolution kernel."""
    if x < 1:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    if x < 2:
        return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return 0.0
