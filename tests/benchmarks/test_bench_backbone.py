"""Images per second of the backbones, beside torch's.

`pytest tests/benchmarks/test_bench_backbone.py --benchmark-only -s` measures ours. With
GLADJAX_TORCH_PYTHON naming a Python that has torch (see
tests/golden/backbone/time_torch.py), torch takes turns with us in the same run, and the
table of experiments/performance/backbone.md is printed.
"""

import contextlib
import os
import pathlib
import statistics
import subprocess
import time

import jax
import numpy as np
import pytest
from golden.backbone import rule

from gladjax import backbone, features

TORCH = pathlib.Path(__file__).parent.parent / "golden" / "backbone" / "time_torch.py"
ROUNDS = int(os.environ.get("GLADJAX_BENCH_ROUNDS", "5"))
CASES = [("wide_resnet50_2", 8), ("efficientnet_lite0", 1), ("efficientnet_lite0", 8)]


def network(name):
    if name == "efficientnet_lite0":
        return backbone.load(name)
    return backbone.random(jax.random.key(0), name, images=rule.images(256, 256))


def seconds(run):
    """Wall clock and processor time of one call."""
    wall, processor = time.perf_counter(), time.process_time()
    jax.block_until_ready(run())
    return time.perf_counter() - wall, time.process_time() - processor


@contextlib.contextmanager
def torch_turns(name, size):
    """A function that runs one batch in torch, in a process of its own."""
    command = [os.environ["GLADJAX_TORCH_PYTHON"], str(TORCH), name, str(size)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        while process.stdout.readline().strip() != "ready":
            assert process.poll() is None

        def turn():
            process.stdin.write("\n")
            process.stdin.flush()
            return tuple(map(float, process.stdout.readline().split()))

        yield turn
        process.stdin.close()


@pytest.mark.parametrize(("name", "size"), CASES)
def test_images_per_second(benchmark, name, size):
    net = network(name)
    images = jax.numpy.asarray(np.repeat(rule.images(256, 256), size, 0))
    run = jax.jit(features.extract)
    maps = benchmark.pedantic(
        lambda: jax.block_until_ready(run(net, images)), rounds=ROUNDS, warmup_rounds=2
    )
    benchmark.extra_info["images"] = size
    assert maps["layer1"].shape[:3] == (size, 64, 64)


@pytest.mark.parametrize(("name", "size"), CASES)
def test_beside_torch(benchmark, name, size, capsys):
    if "GLADJAX_TORCH_PYTHON" not in os.environ:
        pytest.skip("GLADJAX_TORCH_PYTHON is not set")
    net = network(name)
    images = jax.numpy.asarray(np.repeat(rule.images(256, 256), size, 0))
    whole, each = jax.jit(features.extract), jax.jit(features.extract_each)
    ours = {
        "batch": lambda: whole(net, images),
        "one by one": lambda: each(net, images),
    }
    for run in ours.values():
        jax.block_until_ready(run())
    taken = {key: [] for key in (*ours, "torch")}
    with torch_turns(name, size) as turn:
        for _ in range(ROUNDS):
            taken["torch"].append(turn())
            time.sleep(0.3)  # Its threads go to sleep.
            for key, run in ours.items():
                taken[key].append(seconds(run))
    with capsys.disabled():
        for key, values in taken.items():
            wall, processor = (sorted(column) for column in zip(*values, strict=True))
            print(
                f"{name} x {size}, {key}: {size / wall[0]:.2f} images/s at best, "
                f"{size / statistics.median(wall):.2f} in the median, "
                f"{1e3 * statistics.median(processor) / size:.0f} ms of processor "
                "time an image"
            )
    benchmark.pedantic(lambda: None, rounds=1)
    assert all(len(values) == ROUNDS for values in taken.values())
