"""Speed of the baselines at the sizes of real runs; no times are asserted.

Features have the grids and widths of EfficientNet-Lite0 at 256 x 256.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gladjax.baselines import mahaad, neighbors, padim, patchcore, spade

SHAPES = {"layer1": (64, 64, 24), "layer2": (32, 32, 40), "layer3": (16, 16, 112)}


@pytest.fixture(scope="module")
def features():
    """Sixty training images and eight test images, on the device."""
    rng = np.random.default_rng(0)

    def make(n):
        maps = {k: rng.normal(size=(n, *s)) for k, s in SHAPES.items()}
        return {k: jnp.asarray(v, jnp.float32) for k, v in maps.items()}

    return make(60), make(8)


@pytest.mark.parametrize("candidates", [1024, 2048])
def test_coreset_of_5000_from_50000(benchmark, candidates):
    rng = np.random.default_rng(0)
    centers = 3 * rng.normal(size=(200, 128))
    points = centers[rng.integers(200, size=50_000)] + rng.normal(size=(50_000, 128))
    points = jnp.asarray(points / np.arange(1, 129) ** 0.5, jnp.float32)

    def run():
        found = neighbors.coreset(
            jax.random.key(0), points, num_centers=5000, num_candidates=candidates
        )
        return jax.block_until_ready(found)

    found = benchmark.pedantic(run, rounds=2, warmup_rounds=1)
    assert len(set(found.tolist())) == 5000


@pytest.mark.parametrize("num_neighbors", [1, 9])
def test_nearest_of_20000(benchmark, num_neighbors):
    rng = np.random.default_rng(0)
    bank = jnp.asarray(rng.normal(size=(20_000, 152)), jnp.float32)
    search = jax.jit(
        lambda x: neighbors.nearest(x, bank, num_neighbors=num_neighbors)[0]
    )
    found = benchmark.pedantic(
        lambda: jax.block_until_ready(search(bank[:1024])), rounds=3, warmup_rounds=1
    )
    assert float(found[:, 0].max()) == 0


@pytest.mark.parametrize(
    ("method", "options"),
    [
        (mahaad, {}),
        (padim, {"dims": 100}),
        (patchcore, {"coreset": 0.1}),
        (spade, {"grid": "layer3"}),
    ],
    ids=["mahaad", "padim", "patchcore", "spade"],
)
@pytest.mark.parametrize("stage", ["fit", "score"])
def test_method(benchmark, features, method, options, stage):
    train, test = features

    def fit():
        return jax.block_until_ready(method.fit(jax.random.key(0), train, **options))

    if stage == "fit":
        model = benchmark.pedantic(fit, rounds=2, warmup_rounds=1)
        assert model.layers[-1] == "layer3"
        return
    model = fit()
    _, scores = benchmark.pedantic(
        lambda: jax.block_until_ready(method.score(model, test)),
        rounds=3,
        warmup_rounds=1,
    )
    assert scores.shape == (8,)
