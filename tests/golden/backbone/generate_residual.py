"""Makes residual.npz: taps of residual networks in float64, by torch.

Needs `pip install torch==2.13.0 torchvision==0.28.0 antialiased-cnns==0.3`; run as
`python generate_residual.py` in this folder (two minutes on two cores). Weights and
images follow rule.py; of each map a sample, its shape and its largest value are kept,
and for the float32 run of torch itself the error relative to that value.
"""

import pathlib

import numpy as np
import rule
import torch

# The networks are plain Python; torchvision's compiled operators are not needed, but
# their names must exist where it was built for another build of torch.
try:
    import torchvision
except RuntimeError:
    LIBRARY = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        LIBRARY.define(f"{operator}(Tensor a, Tensor b, float c) -> Tensor")
    import torchvision
import antialiased_cnns

HERE = pathlib.Path(__file__).parent
NAMES = ("resnet18", "resnet50", "wide_resnet50_2")


def build(name, filter_size):
    if filter_size is None:
        model = getattr(torchvision.models, name)(weights=None)
    else:
        model = getattr(antialiased_cnns, name)(
            pretrained=False, filter_size=filter_size
        )
    state = model.state_dict()
    for key, value in state.items():
        if not key.endswith("filt"):
            state[key] = torch.from_numpy(rule.weight(key, tuple(value.shape)))
    model.load_state_dict(state)
    return model.eval()


def taps(model, images):
    x = torch.from_numpy(images).permute(0, 3, 1, 2).to(model.fc.weight.dtype)
    x = model.maxpool(model.relu(model.bn1(model.conv1(x))))
    maps = {}
    for layer in rule.LAYERS:
        x = getattr(model, layer)(x)
        maps[layer] = x.permute(0, 2, 3, 1).numpy().astype(np.float64)
    return maps


def main():
    golden = {}
    with torch.inference_mode():
        for name in NAMES:
            for filter_size in (4, 1, None):
                model = build(name, filter_size)
                for size in rule.SIZES:
                    images = rule.images(*size)
                    single = taps(model.float(), images)
                    for layer, value in taps(model.double(), images).items():
                        largest = np.abs(value).max()
                        error = np.abs(single[layer] - value).max() / largest
                        key = f"{name}/{filter_size}/{size[0]}x{size[1]}/{layer}"
                        golden[f"{key}/shape"] = np.asarray(value.shape)
                        golden[f"{key}/largest"] = largest
                        golden[f"{key}/torch_float32_error"] = error
                        chosen = rule.sample(value.shape)
                        golden[f"{key}/sample"] = value.ravel()[chosen]
                        print(key, value.shape, f"{largest:.3g} {error:.1e}")
        model = build("resnet18", 4).double()
        x = torch.from_numpy(rule.images(224, 320)).permute(0, 3, 1, 2).double()
        golden["resnet18/4/224x320/logits"] = model(x)[0].numpy()
    np.savez_compressed(HERE / "residual.npz", **golden)


if __name__ == "__main__":
    main()
