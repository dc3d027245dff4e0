"""EfficientNet-Lite up to its third tap, with or without the classifier.

Inverted residual blocks: expand (1 x 1), depthwise, project (1 x 1), each followed by
batch norm, the first two by ReLU6; the input is added where shapes agree. No
squeeze-and-excitation. The taps are the outputs of the last block before each change of
stride, linear, no activation; the *wide* taps are the activations after the depthwise
convolution inside the same blocks, six times as many channels.

Notation: a block is ``(dim_in, dim_out, size, stride, expand)``, counted from 0.

Differs from the reference in:

1. Batch norm is folded into the convolutions; layers after the last tap are not built.

Reference: Tan, Le. "EfficientNet". ICML 2019; R. Liu. "Higher accuracy on vision models
with EfficientNet-Lite". TensorFlow blog, 2020.
"""

import dataclasses
import math

from gladjax.backbone.names import Names, conv_norm, dense
from gladjax.backbone.network import Family

EPSILON = 1e-3
MODULE = "gladjax.backbone.modules.efficientnet_lite:EfficientNetLite"
# Repeats, kernel, stride, expansion, channels of the seven stages.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM, HEAD = 32, 1280
_TAPPED_STAGES = (1, 2, 4)


@dataclasses.dataclass(frozen=True)
class Spec:
    """Which network of the family, which taps, in which form.

    Attributes:
      width: Factor on the channels.
      depth: Factor on the repeats of the five inner stages.
      wide: Whether the taps are the wide ones.
      head: Number of classes of the classifier, 0 for none.
      folded: Whether batch norm is folded into the convolutions.
    """

    width: float = 1.0
    depth: float = 1.0
    wide: bool = False
    head: int = 0
    folded: bool = True


@dataclasses.dataclass(frozen=True)
class BlockSpec:
    """One inverted residual block; without ``project`` the network ends in it."""

    dim_in: int
    dim_out: int
    size: int
    stride: int
    expand: int
    project: bool = True


def names(spec: Spec) -> Names:
    """Returns the checkpoint's name of each weight of the unfolded network."""
    table = conv_norm("stem", "_conv_stem", "_bn0")
    for index, block in enumerate(blocks(spec)):
        here, there = f"block{index}", f"_blocks.{index}"
        if block.expand > 1:
            table |= conv_norm(
                f"{here}/expand", f"{there}._expand_conv", f"{there}._bn0"
            )
        table |= conv_norm(
            f"{here}/depthwise", f"{there}._depthwise_conv", f"{there}._bn1"
        )
        if block.project:
            table |= conv_norm(
                f"{here}/project", f"{there}._project_conv", f"{there}._bn2"
            )
    if spec.head:
        table |= conv_norm("last", "_conv_head", "_bn1")
        table |= dense("classifier", "_fc")
    return table


def _stages(spec: Spec) -> list[list[BlockSpec]]:
    """The blocks of all seven stages."""
    dim = STEM
    stages = []
    for index, (repeats, size, stride, expand, channels) in enumerate(_STAGES):
        if 0 < index < len(_STAGES) - 1:
            repeats = math.ceil(repeats * spec.depth)
        out = _round(channels * spec.width)
        stage = [BlockSpec(dim, out, size, stride, expand)]
        stage += [BlockSpec(out, out, size, 1, expand)] * (repeats - 1)
        stages.append(stage)
        dim = out
    return stages


def dims(spec: Spec) -> tuple[int, ...]:
    """Returns the channels of the maps of the taps."""
    tapped = [blocks(spec)[index] for index in taps(spec)]
    return tuple(b.dim_in * b.expand if spec.wide else b.dim_out for b in tapped)


def taps(spec: Spec) -> tuple[int, ...]:
    """Indices of the tapped blocks: the last of stages 1, 2 and 4."""
    stages = _stages(spec)
    return tuple(
        sum(len(stage) for stage in stages[: index + 1]) - 1 for index in _TAPPED_STAGES
    )


def blocks(spec: Spec) -> list[BlockSpec]:
    """The blocks to build: all for the head, else up to the last tap."""
    blocks = [block for stage in _stages(spec) for block in stage]
    if spec.head:
        return blocks
    blocks = blocks[: taps(spec)[-1] + 1]
    if spec.wide:
        blocks[-1] = dataclasses.replace(blocks[-1], project=False)
    return blocks


def _round(channels: float) -> int:
    """Nearest multiple of eight, not more than a tenth below."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8


FAMILY = Family(MODULE, names, EPSILON, dims=dims)
