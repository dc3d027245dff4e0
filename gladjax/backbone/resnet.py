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
from collections.abc import Mapping

import numpy as np

from gladjax.backbone import blurpool
from gladjax.backbone.names import Names, conv_norm, dense
from gladjax.backbone.network import LAYERS, Family

EPSILON = 1e-5
MODULE = "gladjax.backbone.modules.resnet:ResNet"
STEM = 64


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


def names(spec: Spec) -> Names:
    """Returns the checkpoint's name of each weight of the unfolded network."""
    table = conv_norm("stem", "conv1", "bn1")
    for block in blocks(spec):
        here, there = path(block), f"layer{block.stage}.{block.index}"
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
    last = {block.stage: block.dim for block in blocks(spec)}
    return tuple(last[stage + 1] for stage in range(len(LAYERS)))


def filters(spec: Spec) -> Mapping[str, np.ndarray]:
    """Returns the blur filters that a checkpoint holds, by name."""
    if spec.filter_size is None:
        return {}
    square = blurpool.square(spec.filter_size)
    last = 3 if spec.bottleneck else 2
    found = {"maxpool.1.filt": _repeat(square, STEM)}
    for block in blocks(spec):
        if block.stride > 1:
            there = f"layer{block.stage}.{block.index}"
            found[f"{there}.conv{last}.0.filt"] = _repeat(square, block.width)
            found[f"{there}.downsample.0.filt"] = _repeat(square, block.dim_in)
    return found


def _repeat(square: np.ndarray, channels: int) -> np.ndarray:
    return np.broadcast_to(square, (channels, 1, *square.shape))


def blocks(spec: Spec) -> list[BlockSpec]:
    """The blocks to build: four stages for the head, else three."""
    blocks = []
    dim = STEM
    for stage in range(1, 5 if spec.head else 4):
        nominal = STEM * 2 ** (stage - 1)
        width = nominal * spec.widen
        out = 4 * nominal if spec.bottleneck else nominal
        for index in range(spec.depths[stage - 1]):
            stride = 2 if stage > 1 and index == 0 else 1
            blocks.append(BlockSpec(stage, index, dim, width, out, stride))
            dim = out
    return blocks


def path(block: BlockSpec) -> str:
    """Returns the name of a block in ours."""
    return f"stage{block.stage}_{block.index}"


FAMILY = Family(MODULE, names, EPSILON, filters, dims=dims, hastens=True)
