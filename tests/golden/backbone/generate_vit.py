"""Makes vit.npz: patch tokens of small DINOv2 networks in float64, by Hugging Face.

Needs `pip install torch==2.13.0 transformers==5.23.0`; run as `python generate_vit.py`
in this folder (ten seconds). Weights follow rule.py under the names of the original
checkpoints; this file says which of the port's tensors each one is.
"""

import pathlib

import numpy as np
import rule
import torch

# As in generate_residual.py: names of operators of another build.
try:
    import torchvision  # noqa: F401
except RuntimeError:
    LIBRARY = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        LIBRARY.define(f"{operator}(Tensor a, Tensor b, float c) -> Tensor")
except ImportError:
    pass
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
)

HERE = pathlib.Path(__file__).parent
DIM, DEPTH, HEADS, GRID, PATCH = 24, 4, 3, 5, 14
SIZES = ((70, 70), (42, 84), (112, 98))
TAPS = (1, 2, 3)


def original(shapes):
    """Tensors by the original's names, drawn by the rule."""
    return {name: torch.from_numpy(rule.weight(name, s)) for name, s in shapes.items()}


def shapes(registers):
    d = DIM
    table = {
        "cls_token": (1, 1, d),
        "pos_embed": (1, 1 + GRID**2, d),
        "patch_embed.proj.weight": (d, 3, PATCH, PATCH),
        "patch_embed.proj.bias": (d,),
        "norm.weight": (d,),
        "norm.bias": (d,),
    }
    if registers:
        table["register_tokens"] = (1, registers, d)
    for index in range(DEPTH):
        prefix = f"blocks.{index}"
        for number in (1, 2):
            table[f"{prefix}.norm{number}.weight"] = (d,)
            table[f"{prefix}.norm{number}.bias"] = (d,)
            table[f"{prefix}.ls{number}.gamma"] = (d,)
        for name, shape in (
            ("attn.qkv", (3 * d, d)),
            ("attn.proj", (d, d)),
            ("mlp.fc1", (4 * d, d)),
            ("mlp.fc2", (d, 4 * d)),
        ):
            table[f"{prefix}.{name}.weight"] = shape
            table[f"{prefix}.{name}.bias"] = shape[:1]
    return table


def ported(state):
    """The same tensors by the port's names."""
    parts = {"patch_embed.proj": "embeddings.patch_embeddings.projection"}
    fixed = {
        "cls_token": "embeddings.cls_token",
        "pos_embed": "embeddings.position_embeddings",
        "register_tokens": "embeddings.register_tokens",
    }
    result = {"embeddings.mask_token": torch.zeros(1, DIM)}
    for name, value in state.items():
        kind = name.rpartition(".")[2]
        if name in fixed:
            result[fixed[name]] = value
        elif name.startswith("patch_embed"):
            result[f"{parts['patch_embed.proj']}.{kind}"] = value
        elif name.startswith("norm"):
            result[f"layernorm.{kind}"] = value
        else:
            _, index, rest = name.split(".", 2)
            prefix = f"encoder.layer.{index}"
            if rest.startswith("attn.qkv"):
                for part, piece in zip("qkv", value.chunk(3), strict=True):
                    result[f"{prefix}.attention.{part}_proj.{kind}"] = piece
            elif rest.startswith("attn.proj"):
                result[f"{prefix}.attention.o_proj.{kind}"] = value
            elif rest.startswith("ls"):
                result[f"{prefix}.layer_scale{rest[2]}.lambda1"] = value
            else:
                result[f"{prefix}.{rest}"] = value
    return result


def main():
    golden = {}
    common = {
        "hidden_size": DIM,
        "num_hidden_layers": DEPTH,
        "num_attention_heads": HEADS,
        "image_size": GRID * PATCH,
        "patch_size": PATCH,
    }
    for registers in (0, 4):
        if registers:
            config = Dinov2WithRegistersConfig(num_register_tokens=registers, **common)
            model = Dinov2WithRegistersModel(config)
        else:
            model = Dinov2Model(Dinov2Config(**common))
        loaded = ported(original(shapes(registers)))
        own = model.state_dict()
        renamed = {key: value for key, value in loaded.items() if key in own}
        missing = set(own) - set(renamed)
        if missing:
            raise SystemExit(f"unknown names: {sorted(missing)}")
        model.load_state_dict(renamed)
        model = model.eval().double()
        for size in SIZES:
            x = torch.from_numpy(rule.images(*size)).permute(0, 3, 1, 2).double()
            with torch.inference_mode():
                states = model(x, output_hidden_states=True).hidden_states
                tokens = [model.layernorm(states[index + 1]) for index in TAPS]
            for layer, value in zip(rule.LAYERS, tokens, strict=True):
                value = value[0, 1 + registers :].numpy()
                h, w = size[0] // PATCH, size[1] // PATCH
                key = f"{registers}/{size[0]}x{size[1]}/{layer}"
                golden[f"{key}/shape"] = np.asarray((1, h, w, DIM))
                golden[f"{key}/largest"] = np.abs(value).max()
                chosen = rule.sample((1, h, w, DIM))
                golden[f"{key}/sample"] = value.ravel()[chosen]
                print(key, (h, w), np.abs(value).max())
    np.savez_compressed(HERE / "vit.npz", **golden)


if __name__ == "__main__":
    main()
