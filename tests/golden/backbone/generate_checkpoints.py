"""Makes checkpoint_*.pth and checkpoint.npz: small files as torch itself writes them.

Needs `pip install torch==2.13.0`; run as `python generate_checkpoints.py` in this
folder (a second).
"""

import collections
import pathlib

import numpy as np
import torch

HERE = pathlib.Path(__file__).parent


def main():
    rng = np.random.default_rng(0)
    base = torch.from_numpy(rng.standard_normal((4, 6)).astype(np.float32))
    state = collections.OrderedDict(
        {
            "plain": base,
            "parameter": torch.nn.Parameter(base[1:3] * 2),
            "transposed": base.t(),
            "window": base[1:3, 2:5],
            "double": base.double() / 3,
            "half": base.half(),
            "bfloat16": base.bfloat16(),
            "long": torch.arange(5) - 2,
            "bool": base > 0,
            "scalar": torch.tensor(2**40),
            "empty": torch.zeros(0, 3),
        }
    )
    expected = {
        key: (value.float() if value.dtype == torch.bfloat16 else value)
        .detach()
        .numpy()
        for key, value in state.items()
    }
    np.savez_compressed(HERE / "checkpoint.npz", **expected)
    torch.save(state, HERE / "checkpoint_zip.pth")
    torch.save(
        state, HERE / "checkpoint_legacy.pth", _use_new_zipfile_serialization=False
    )
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    with torch.no_grad():
        for value in model.state_dict().values():
            fresh = torch.from_numpy(rng.standard_normal(tuple(value.shape)))
            value.copy_(fresh)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model(torch.zeros(1, 3, 8, 8)).sum().backward()
    optimizer.step()
    wrapped = {
        "epoch": 90,
        "arch": "resnet50",
        "best": torch.tensor(77.5),
        "state_dict": {
            f"module.{key}": value for key, value in model.state_dict().items()
        },
        "optimizer": optimizer.state_dict(),
    }
    torch.save(wrapped, HERE / "checkpoint_wrapped_zip.pth")
    torch.save(
        wrapped,
        HERE / "checkpoint_wrapped_legacy.pth",
        _use_new_zipfile_serialization=False,
    )


if __name__ == "__main__":
    main()
