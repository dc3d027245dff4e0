"""How long alignment takes: 64 images of 256 x 256, Euclidean, after compilation.

Run with ``pytest tests/benchmarks/test_bench_align.py --benchmark-only``; seconds per
round are for the whole batch. The target on two cores is 6.4 s, and 25.6 s with the
search over all turns.
"""

import jax
import numpy as np
import pytest
from skimage import data

from gladjax import align
from gladjax.datasets import randomised


@pytest.mark.parametrize("coarse", [False, True], ids=["refinement", "search"])
def test_register_a_batch(benchmark, coarse):
    image = data.astronaut()[:512, :512].reshape(256, 2, 256, 2, 3).mean((1, 3))
    batch = np.repeat(image[None].astype(np.float32), 64, axis=0)
    angle = np.pi if coarse else 0.1
    moved, _ = randomised.version(jax.random.key(0), batch, max_angle=angle)

    def run():
        return jax.block_until_ready(
            align.register_batch(batch[0], moved, coarse=coarse)
        )

    run()
    _, info = benchmark.pedantic(run, rounds=3)
    assert np.mean(info.success) > 0.95


def test_warp_a_batch(benchmark):
    images = np.zeros((64, 256, 256, 3), np.float32)
    R = randomised.draw(jax.random.key(0), 64, (256, 256))

    def run():
        return jax.block_until_ready(align.warp_batch(images, R, (256, 256)))

    run()
    warped, _ = benchmark(run)
    assert np.isfinite(warped).all()
