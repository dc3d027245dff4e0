"""Time to score one image without the backbone, and to load a model.

    pytest tests/benchmarks/test_bench_scoring.py --benchmark-only

Models have the sizes of EfficientNet-Lite0's taps and of the paper's network with 1000
components, a tenth of them active at a position. Features are drawn from the active
components, so that pruning has as much to do as on real ones. Acceptance on two cores:
Lite0 below 10 ms, the paper's size below 100 ms and at least 100 times faster than all
components at every position (of which a hundredth of the positions is timed), 500 MB
loaded in 2 s.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gladjax import backbone, detector, factors, io, scoring
from gladjax.mixture import GaussianMixture
from gladjax.weights import LocalWeights

LITE = {"a": (64, 24, 24), "b": (32, 40, 40), "c": (16, 112, 60)}
PAPER = {"a": (64, 256, 100), "b": (32, 512, 100), "c": (16, 1024, 51)}
NUM_COMPONENTS = 1000


def network(weights, images):
    """A backbone of the right shapes; it is never run."""
    n = images.shape[0]
    return {
        name: jnp.full((n, side, side, d), jnp.sum(weights), weights.dtype)
        for name, (side, d, _) in (LITE if weights.shape else PAPER).items()
    }


def mixture(rng, d, rank):
    """Components of falling spectra around means that are a few deviations apart."""
    k = NUM_COMPONENTS
    means = rng.normal(size=(k, d)) * 3 / np.arange(1, d + 1) ** 0.4
    complete = rank >= d
    noise = 0.02
    values = 2.0 / np.arange(1, min(rank, d) + 1) ** 0.8 + noise
    basis = np.linalg.qr(rng.normal(size=(d, d)))[0][: len(values)]
    rows = np.empty((k, len(values), d), np.float32)
    for i in range(k):
        turned = np.roll(basis, i, axis=1) * rng.choice([-1, 1], size=(1, d))
        if complete:  # The rows of a complete component are triangular.
            sigma = (turned.T * values) @ turned
            rows[i] = np.linalg.inv(np.linalg.cholesky(sigma))
        else:
            rows[i] = turned * np.sqrt(values - noise)[:, None]
    log_det = np.log(values).sum() + (d - len(values)) * np.log(noise)
    ranks = np.full(k, len(values), np.int32)
    given = GaussianMixture(
        log_weights=np.full(k, -np.log(k), np.float32),
        means=means.astype(np.float32),
        rows=rows.reshape(-1, d),
        inverses=np.zeros(0, np.float32),
        offsets=(np.arange(k) * len(values)).astype(np.int32),
        ranks=ranks,
        scales=np.full(k, values.mean() if complete else 1, np.float32),
        noise=np.full(k, noise, np.float32),
        log_dets=np.full(k, log_det, np.float32),
    )
    entries = 0 if complete else k * len(values) ** 2
    return jax.tree.map(np.asarray, factors.solved(given, entries))


def local_weights(rng, side, active=100):
    k, size = NUM_COMPONENTS, side * side
    chosen = [np.sort(rng.choice(k, active, replace=False)) for _ in range(size)]
    return LocalWeights(
        starts=(np.arange(size + 1) * active).astype(np.int32),
        components=np.concatenate(chosen).astype(np.int32),
        log_weights=np.full(size * active, -np.log(active), np.float32),
        shape=(side, side),
    )


def features(rng, mixed, local):
    """One sample of an active component at every position."""
    h, w = local.shape
    own = local.components[local.starts[:-1] + rng.integers(0, 100, h * w)]
    r = int(mixed.ranks[0])
    d = mixed.means.shape[1]
    out = mixed.means[own] + np.sqrt(mixed.noise[0]) * rng.normal(size=(h * w, d))
    spread = rng.normal(size=(h * w, r)).astype(np.float32)
    for i, c in enumerate(own):
        rows = mixed.rows[mixed.offsets[c] : mixed.offsets[c] + r]
        if r == d:
            out[i] += np.linalg.solve(rows, spread[i])
        else:
            out[i] += spread[i] @ rows
    return out.reshape(h, w, d).astype(np.float32)


@functools.cache
def model(name):
    """A detector of the right sizes, and feature maps of one image."""
    rng = np.random.default_rng(0)
    layers, maps = {}, {}
    for layer, (side, d, rank) in (LITE if name == "lite" else PAPER).items():
        mixed, local = mixture(rng, d, rank), local_weights(rng, side)
        layers[layer] = detector.Layer(mixed, local, scoring.prepare(mixed, local))
        maps[layer] = features(rng, mixed, local)
    weights = jnp.zeros((1,) if name == "lite" else ())
    bare = backbone.from_function(network, weights, name=name, layers=tuple(layers))
    mask = np.ones((256, 256), bool)
    fitted = detector.Detector(bare, layers, mask, None, None, detector.Settings())
    return fitted, maps


@pytest.mark.parametrize("name", ["lite", "paper"])
def test_score_one_image(benchmark, name):
    fitted, maps = model(name)
    frame = np.zeros((256, 256, 3), np.float32)
    aligned = detector.align_image(fitted, frame)

    def once():
        logs = detector.log_maps(fitted, maps)
        return detector.summarise(fitted, logs, aligned, (256, 256)).score

    once()
    assert np.isfinite(benchmark(once))


def test_load_of_a_large_model(benchmark, tmp_path):
    fitted, _ = model("paper")
    path = tmp_path / "model.safetensors"
    io.save(path, fitted)
    assert path.stat().st_size > 480e6
    loaded = benchmark.pedantic(
        io.load, (path,), {"backbone": fitted.backbone}, rounds=3, warmup_rounds=1
    )
    assert list(loaded.layers) == list(fitted.layers)
