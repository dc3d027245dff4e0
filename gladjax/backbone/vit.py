"""DINOv2 vision transformers: another kind of network behind the same door.

The image is cut into patches of 14 pixels, each a token; a class token and, in one
form, four register tokens go before them. Blocks of attention and a perceptron follow,
each with layer norm in front and a learned scale per channel behind. Taps are the
patch tokens after half, three quarters and all of the blocks, through the final layer
norm; all three maps have the grid of the patches.

Notation: ``n`` images, ``t`` tokens, ``d`` channels.

Differs from the reference in:

1. Learned positions are interpolated to the grid at hand as Hugging Face's port does
   it, by the grid's size (the original scales by 0.1 pixel more).

Reference: Oquab et al. "DINOv2: Learning Robust Visual Features without Supervision".
TMLR 2024; Darcet et al. "Vision Transformers Need Registers". ICLR 2024.
"""

import dataclasses

from gladjax.backbone.names import Names, dense
from gladjax.backbone.network import Family

MODULE = "gladjax.backbone.modules.vit:VisionTransformer"


@dataclasses.dataclass(frozen=True)
class Spec:
    """Which network of the family.

    Attributes:
      dim: Channels.
      depth: Blocks.
      num_heads: Heads of the attention.
      patch: Side of a patch in pixels.
      grid: Side of the grid that the checkpoint's positions are for.
      num_registers: Register tokens.
      head: Must be 0: there is no classifier.
      folded: Without meaning here: there is no batch norm.
    """

    dim: int = 384
    depth: int = 12
    num_heads: int = 6
    patch: int = 14
    grid: int = 37
    num_registers: int = 0
    head: int = 0
    folded: bool = True


def names(spec: Spec) -> Names:
    """Returns the checkpoint's name of each weight."""
    table = {
        "kernel": "patch_embed.proj.weight",
        "bias": "patch_embed.proj.bias",
        "token": "cls_token",
        "position": "pos_embed",
    }
    if spec.num_registers:
        table["register"] = "register_tokens"
    for index in range(spec.depth):
        here, there = f"block{index}", f"blocks.{index}"
        table |= dense(f"{here}/attention/inputs", f"{there}.attn.qkv")
        table |= dense(f"{here}/attention/outputs", f"{there}.attn.proj")
        table |= dense(f"{here}/rise", f"{there}.mlp.fc1")
        table |= dense(f"{here}/fall", f"{there}.mlp.fc2")
        for number in (1, 2):
            table |= _norm(f"{here}/norm{number}", f"{there}.norm{number}")
            table[f"{here}/scale{number}/scale"] = f"{there}.ls{number}.gamma"
    return table | _norm("norm", "norm")


def _norm(path: str, prefix: str) -> Names:
    return {f"{path}/scale": f"{prefix}.weight", f"{path}/offset": f"{prefix}.bias"}


FAMILY = Family(MODULE, names, 0.0, ignored=frozenset({"mask_token"}), classifies=False)
