"""Residual networks up to their third stage, anti-aliased or plain.

The anti-aliased form puts a blur before each subsampling and moves the stride off the
convolutions: the stem's pooling is a maximum of stride 1 and a blur; in the first block
of stages 2 to 4 the 3 x 3 convolution keeps its resolution and the blur stands before
the last convolution and in the shortcut. The plain form is torchvision's. Taps are the
outputs of stages 1, 2 and 3.

Notation: ``width`` is the number of channels inside a block, ``dim`` of its output,
``expansion`` their ratio in a bottleneck of nominal width.

Differs from the reference in:

1. Batch norm may be folded into the convolutions; layers after the last tap are not
   built unless a classifier is asked for.

Reference: Zhang. "Making Convolutional Networks Shift-Invariant Again". ICML 2019;
He et al. "Deep Residual Learning". CVPR 2016; Zagoruyko, Komodakis. "Wide Residual
Networks". BMVC 2016.
"""

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from gladjax.backbone import blurpool
from gladjax.backbone.layers import ConvNorm, Dense, Form
from gladjax.backbone.names import Names, conv_norm, dense
from gladjax.backbone.network import LAYERS, Family

EPSILON = 1e-5
_STEM = 64


@dataclasses.dataclass(frozen=True)
class Spec:
    """Which network of the family, in which form.

    Attributes:
      depths: Blocks of the four stages.
      bottleneck: Whether blocks have three convolutions and expand fourfold.
      widen: Factor on the channels inside a bottleneck.
      filter_size: Side of the blur filters, ``None`` for the plain network.
      head: Number of classes of the classifier, 0 for none.
      folded: Whether batch norm is folded into the convolutions.
      fast: Whether 3 x 3 kernels are kept transformed (see `winograd`).
    """

    depths: tuple[int, int, int, int]
    bottleneck: bool = True
    widen: int = 1
    filter_size: int | None = 4
    head: int = 0
    folded: bool = True
    fast: bool = False


@dataclasses.dataclass(frozen=True)
class BlockSpec:
    """One residual block; ``shortcut`` says whether it has a convolution."""

    stage: int
    index: int
    dim_in: int
    width: int
    dim: int
    stride: int

    @property
    def shortcut(self) -> bool:
        """Whether the shortcut changes the shape."""
        return self.stride > 1 or self.dim_in != self.dim


class Block(nnx.Module):
    """A residual block, basic or bottleneck."""

    def __init__(self, block: BlockSpec, spec: Spec) -> None:
        """Allocates zero weights."""
        form = Form(EPSILON, spec.folded, spec.fast)
        blurs = spec.filter_size is not None and block.stride > 1
        self.blur = spec.filter_size if blurs else None
        stride = 1 if blurs else block.stride
        self.bottleneck, self.shortcut = spec.bottleneck, block.shortcut
        w = block.width
        if spec.bottleneck:
            self.conv1 = ConvNorm(block.dim_in, w, 1, form=form)
            self.conv2 = ConvNorm(w, w, 3, stride=stride, pad=1, form=form)
            self.conv3 = ConvNorm(w, block.dim, 1, form=form)
        else:
            self.conv1 = ConvNorm(block.dim_in, w, 3, stride=stride, pad=1, form=form)
            self.conv2 = ConvNorm(w, block.dim, 3, pad=1, form=form)
        if block.shortcut:
            self.down = ConvNorm(block.dim_in, block.dim, 1, stride=stride, form=form)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n _h _w d"]:
        """Applies the block."""
        y = jax.nn.relu(self.conv1(x))
        if self.bottleneck:
            y = jax.nn.relu(self.conv2(y))
        if self.blur is not None:
            x, y = blurpool.blur_pool(x, self.blur), blurpool.blur_pool(y, self.blur)
        y = self.conv3(y) if self.bottleneck else self.conv2(y)
        return jax.nn.relu(y + (self.down(x) if self.shortcut else x))


class ResNet(nnx.Module):
    """The network as a map from normalised images to named maps."""

    def __init__(self, spec: Spec) -> None:
        """Allocates zero weights."""
        self.spec = spec
        self.stem = ConvNorm(
            3, _STEM, 7, stride=2, pad=3, form=Form(EPSILON, spec.folded)
        )
        blocks = _blocks(spec)
        for block in blocks:
            setattr(self, _path(block), Block(block, spec))
        if spec.head:
            self.classifier = Dense(blocks[-1].dim, spec.head)

    def __call__(self, images: Float[Array, "n h w 3"]) -> dict[str, Array]:
        """Returns the maps of the taps and, with a head, the ``logits``."""
        x = _pool(jax.nn.relu(self.stem(images)), self.spec.filter_size)
        maps = {}
        for block in _blocks(self.spec):
            x = getattr(self, _path(block))(x)
            if block.stage <= len(LAYERS):
                maps[LAYERS[block.stage - 1]] = x
        if self.spec.head:
            maps["logits"] = self.classifier(jnp.mean(x, axis=(1, 2)))
        return maps


def names(spec: Spec) -> Names:
    """Returns the checkpoint's name of each weight of the unfolded network."""
    table = conv_norm("stem", "conv1", "bn1")
    for block in _blocks(spec):
        here, there = _path(block), f"layer{block.stage}.{block.index}"
        blurs = spec.filter_size is not None and block.stride > 1
        last = 3 if spec.bottleneck else 2
        for number in range(1, last + 1):
            inner = ".1" if blurs and number == last else ""
            table |= conv_norm(
                f"{here}/conv{number}",
                f"{there}.conv{number}{inner}",
                f"{there}.bn{number}",
            )
        if block.shortcut:
            first = 1 if blurs else 0
            table |= conv_norm(
                f"{here}/down",
                f"{there}.downsample.{first}",
                f"{there}.downsample.{first + 1}",
            )
    if spec.head:
        table |= dense("classifier", "fc")
    return table


def dims(spec: Spec) -> tuple[int, ...]:
    """Returns the channels of the maps of the taps."""
    last = {block.stage: block.dim for block in _blocks(spec)}
    return tuple(last[stage + 1] for stage in range(len(LAYERS)))


def filters(spec: Spec) -> Mapping[str, np.ndarray]:
    """Returns the blur filters that a checkpoint holds, by name."""
    if spec.filter_size is None:
        return {}
    square = blurpool.square(spec.filter_size)
    last = 3 if spec.bottleneck else 2
    found = {"maxpool.1.filt": _repeat(square, _STEM)}
    for block in _blocks(spec):
        if block.stride > 1:
            there = f"layer{block.stage}.{block.index}"
            found[f"{there}.conv{last}.0.filt"] = _repeat(square, block.width)
            found[f"{there}.downsample.0.filt"] = _repeat(square, block.dim_in)
    return found


def _repeat(square: np.ndarray, channels: int) -> np.ndarray:
    return np.broadcast_to(square, (channels, 1, *square.shape))


def _blocks(spec: Spec) -> list[BlockSpec]:
    """The blocks to build: four stages for the head, else three."""
    blocks = []
    dim = _STEM
    for stage in range(1, 5 if spec.head else 4):
        nominal = _STEM * 2 ** (stage - 1)
        width = nominal * spec.widen
        out = 4 * nominal if spec.bottleneck else nominal
        for index in range(spec.depths[stage - 1]):
            stride = 2 if stage > 1 and index == 0 else 1
            blocks.append(BlockSpec(stage, index, dim, width, out, stride))
            dim = out
    return blocks


def _path(block: BlockSpec) -> str:
    return f"stage{block.stage}_{block.index}"


def _pool(
    x: Float[Array, "n h w c"], filter_size: int | None
) -> Float[Array, "n _h _w c"]:
    """Max-pooling behind the stem: 3 x 3 of stride 2, or 2 x 2 of stride 1 and blur."""
    if filter_size is None:
        return _maximum(x, side=3, stride=2, pad=1)
    return blurpool.blur_pool(_maximum(x, side=2, stride=1, pad=0), filter_size)


def _maximum(
    x: Float[Array, "n h w c"], *, side: int, stride: int, pad: int
) -> Float[Array, "n _h _w c"]:
    """Max-pooling as maxima of shifted slices, three times as fast as a window."""
    lowest = jnp.asarray(-jnp.inf, x.dtype)
    for axis in (1, 2):
        pads = [(0, 0, 0)] * 4
        pads[axis] = (pad, pad, 0)
        padded = lax.pad(x, lowest, pads)
        count = (padded.shape[axis] - side) // stride + 1
        stop = (count - 1) * stride + 1
        slices = [
            lax.slice_in_dim(padded, i, i + stop, stride, axis) for i in range(side)
        ]
        x = functools.reduce(jnp.maximum, slices)
    return x


FAMILY = Family(ResNet, names, EPSILON, filters, dims=dims, hastens=True)
