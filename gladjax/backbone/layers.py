"""Convolution with batch norm, in the two forms a network needs.

A published checkpoint holds a convolution and the statistics of the batch norm behind
it; inference needs only their product, one kernel and one bias. `ConvNorm` is both
forms in one module: ``folded`` says which. `matching.fold` turns the weights of the
first form into those of the second. While an unfolded module is ``calibrating``, it
replaces its statistics by those of the batch.

Notation: kernels are ``(kh, kw, c_in, c_out)``, maps ``(n, h, w, c)``.

Differs from the reference in:

1. On CPU a depthwise convolution is a sum of shifted products: XLA's grouped
   convolution is 15 to 70 times slower there (measured). Other platforms use the
   grouped one.
2. A 1 x 1 convolution is a matrix product, which XLA's CPU backend runs faster.
3. A 3 x 3 convolution may keep its kernel transformed (see `winograd`) for single
   images.

Reference: Ioffe, Szegedy. "Batch Normalization". ICML 2015.
"""

import dataclasses

import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from gladjax import devices
from gladjax.backbone import winograd

Pads = tuple[tuple[int, int], tuple[int, int]]

_LAYOUT = ("NHWC", "HWIO", "NHWC")
_PRECISION = lax.Precision.HIGHEST


@dataclasses.dataclass(frozen=True)
class Form:
    """How a convolution and its batch norm are kept.

    Attributes:
      epsilon: Added to the variance.
      folded: Whether the batch norm is part of kernel and bias.
      fast: Whether a folded 3 x 3 kernel of stride 1 is kept transformed.
    """

    epsilon: float
    folded: bool = True
    fast: bool = False


class ConvNorm(nnx.Module):
    """A convolution without bias, then batch norm; or, folded, one with bias."""

    def __init__(
        self,
        dim_in: int,
        dim_out: int,
        size: int,
        *,
        stride: int = 1,
        pad: int | None = 0,
        depthwise: bool = False,
        form: Form,
    ) -> None:
        """Allocates zero weights.

        Args:
          dim_in: Channels of the input.
          dim_out: Channels of the output; equal to ``dim_in`` if depthwise.
          size: Side of the kernel.
          stride: Step between outputs.
          pad: Zeros on each side; ``None`` for TensorFlow's "SAME".
          depthwise: Whether each channel has its own kernel of one input.
          form: How the weights are kept.
        """
        self.stride, self.pad, self.depthwise = stride, pad, depthwise
        self.form, self.calibrating = form, False
        dense = not depthwise and (size, stride, pad) == (3, 1, 1)
        self.fast = form.fast and form.folded and dense
        if self.fast:
            for name in winograd.NAMES:
                setattr(self, name, nnx.Param(jnp.zeros((dim_in, dim_out))))
        else:
            shape = (size, size, 1 if depthwise else dim_in, dim_out)
            self.kernel = nnx.Param(jnp.zeros(shape))
        if form.folded:
            self.bias = nnx.Param(jnp.zeros((dim_out,)))
        else:
            self.scale = nnx.Param(jnp.zeros((dim_out,)))
            self.offset = nnx.Param(jnp.zeros((dim_out,)))
            self.mean = nnx.Param(jnp.zeros((dim_out,)))
            self.variance = nnx.Param(jnp.zeros((dim_out,)))

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n _h _w d"]:
        """Applies convolution and normalisation."""
        if self.fast:
            matrices = [getattr(self, name)[...] for name in winograd.NAMES]
            if x.shape[0] == 1 and devices.target() != "onnx":
                y = winograd.convolve(x, matrices)
                return y + _channelwise(self.bias[...])
            kernel = winograd.recover(matrices)
        else:
            kernel = self.kernel[...]
        size = kernel.shape[0]
        pads = _pads(x.shape[1:3], size, self.stride, self.pad)
        apply = depthwise if self.depthwise else convolve
        y = apply(x, kernel, stride=self.stride, pads=pads)
        if self.form.folded:
            return y + _channelwise(self.bias[...])
        if self.calibrating:
            self.mean = nnx.Param(jnp.mean(y, axis=(0, 1, 2)))
            self.variance = nnx.Param(jnp.var(y, axis=(0, 1, 2)))
        gain = self.scale[...] * lax.rsqrt(self.variance[...] + self.form.epsilon)
        return (y - _channelwise(self.mean[...])) * _channelwise(gain) + _channelwise(
            self.offset[...]
        )


class Dense(nnx.Module):
    """A linear layer with bias."""

    def __init__(self, dim_in: int, dim_out: int) -> None:
        """Allocates zero weights."""
        self.kernel = nnx.Param(jnp.zeros((dim_in, dim_out)))
        self.bias = nnx.Param(jnp.zeros((dim_out,)))

    def __call__(self, x: Float[Array, "*n c"]) -> Float[Array, "*n d"]:
        """Applies the layer."""
        bias = self.bias[...]
        y = jnp.matmul(x, self.kernel[...], precision=_PRECISION)
        return y + bias.reshape((1,) * (x.ndim - 1) + bias.shape)


def convolve(
    x: Float[Array, "n h w c"],
    kernel: Float[Array, "k k c d"],
    *,
    stride: int = 1,
    pads: Pads = ((0, 0), (0, 0)),
) -> Float[Array, "n _h _w d"]:
    """Returns the cross-correlation of maps with a dense kernel."""
    if kernel.shape[:2] == (1, 1) and pads == ((0, 0), (0, 0)):
        x = x[:, ::stride, ::stride] if stride > 1 else x
        dims = (((3,), (0,)), ((), ()))
        return lax.dot_general(x, kernel[0, 0], dims, precision=_PRECISION)
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        pads,
        dimension_numbers=_LAYOUT,
        precision=_PRECISION,
    )


def depthwise(
    x: Float[Array, "n h w c"],
    kernel: Float[Array, "k k 1 c"],
    *,
    stride: int = 1,
    pads: Pads = ((0, 0), (0, 0)),
) -> Float[Array, "n _h _w c"]:
    """Returns the cross-correlation of each channel with its own kernel."""

    def grouped(x: Array, kernel: Array) -> Array:
        return lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            pads,
            dimension_numbers=_LAYOUT,
            feature_group_count=x.shape[-1],
            precision=_PRECISION,
        )

    def shifted(x: Array, kernel: Array) -> Array:
        return shifted_sum(x, kernel, stride=stride, pads=pads)

    if devices.target() == "onnx":  # It has one form for all platforms.
        return grouped(x, kernel)
    return lax.platform_dependent(x, kernel, cpu=shifted, default=grouped)


def shifted_sum(
    x: Float[Array, "n h w c"],
    kernel: Float[Array, "k k 1 c"],
    *,
    stride: int = 1,
    pads: Pads = ((0, 0), (0, 0)),
) -> Float[Array, "n _h _w c"]:
    """Returns what `depthwise` returns, as a sum over the kernel's entries."""
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    n, h, w, c = x.shape
    size = kernel.shape[0]
    rows = (h - size) // stride * stride + 1
    columns = (w - size) // stride * stride + 1
    terms = [
        lax.slice(
            x, (0, i, j, 0), (n, i + rows, j + columns, c), (1, stride, stride, 1)
        )
        * _channelwise(kernel[i, j, 0])
        for i in range(size)
        for j in range(size)
    ]
    return sum(terms[1:], start=terms[0])


def relu6(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Returns the input, clipped to [0, 6]."""
    return jnp.clip(x, 0.0, 6.0)


def _channelwise(vector: Float[Array, " c"]) -> Float[Array, "1 1 1 c"]:
    return vector[None, None, None, :]


def _pads(sides: tuple[int, ...], size: int, stride: int, pad: int | None) -> Pads:
    """Zeros before and after each axis; ``None`` is TensorFlow's "SAME"."""
    if pad is not None:
        return ((pad, pad), (pad, pad))
    totals = [max((-(-s // stride) - 1) * stride + size - s, 0) for s in sides]
    before = [total // 2 for total in totals]
    return (
        (before[0], totals[0] - before[0]),
        (before[1], totals[1] - before[1]),
    )
