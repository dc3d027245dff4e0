"""Time of shrinkage, of one K-MLE step, and of the pruned against the dense search.

The synthetic samples have a spectrum that falls like that of real features. The dense
baseline is one jitted program: one matrix product per component. Compare
``test_nearest`` with ``test_dense`` of the same size. Compiling is not timed: every
function runs once before the clock starts.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gladjax import assign, covariance, estimation, kmle
from gladjax.experiments.performance import timing

SIZES = {"narrow": (20_000, 112, 200), "wide": (10_000, 480, 100)}


def samples(n, d, k):
    rng = np.random.default_rng(0)
    scale = 1 / (1 + np.arange(d)) ** 0.75
    means = 2 * rng.normal(size=(k, d)) * scale
    labels = rng.integers(0, k, n).astype(np.int32)
    x = means[labels] + rng.normal(size=(n, d)) * scale
    return x.astype(np.float32), labels


def fitted(n, d, k):
    x, labels = samples(n, d, k)
    mixture = estimation.maximize(x, labels, k)
    return x, labels, jax.tree.map(np.asarray, mixture)


def test_oas(benchmark):
    x, _ = samples(4000, 112, 1)
    scatter = jnp.asarray(x.T @ x)
    function = jax.jit(covariance.oas_shrinkage)
    rho = benchmark(lambda: function(scatter, 4000).block_until_ready())
    assert 0 < rho < 1


def test_step(benchmark):
    x, _ = samples(4000, 32, 40)
    x = jnp.asarray(x)
    step = jax.jit(kmle.step)
    state = kmle.init(jax.random.key(0), x, num_components=40)
    jax.block_until_ready(step(state, x))
    _, info = benchmark.pedantic(
        lambda: jax.block_until_ready(step(state, x)), rounds=5
    )
    assert int(info.num_components) > 1


@pytest.mark.parametrize("size", SIZES)
def test_nearest(benchmark, size):
    x, labels, mixture = fitted(*SIZES[size])
    assign.nearest(mixture, x[:1000])
    found, _, info = benchmark.pedantic(
        assign.nearest_info, args=(mixture, x), rounds=3
    )
    benchmark.extra_info["full costs per sample"] = info.evaluated
    benchmark.extra_info["survivors per sample"] = info.survivors
    assert np.mean(np.asarray(found) == labels) > 0.5


@pytest.mark.parametrize("size", SIZES)
def test_dense(benchmark, size):
    n, d, k = SIZES[size]
    x, _, mixture = fitted(n, d, k)
    constants = jnp.asarray(mixture.log_dets - 2 * mixture.log_weights)
    roots = jnp.asarray(timing.whitening(mixture))
    arguments = (roots, jnp.asarray(mixture.means), constants)
    x_jax = jnp.asarray(x)
    jax.block_until_ready(timing.dense_argmin(*arguments, x_jax))
    dense, _ = benchmark.pedantic(
        lambda: jax.block_until_ready(timing.dense_argmin(*arguments, x_jax)), rounds=3
    )
    seconds = benchmark.stats.stats.min
    benchmark.extra_info["Gflop/s"] = 2 * n * k * d * d / seconds / 1e9
    pruned, _ = assign.nearest(mixture, x)
    # The baseline rounds otherwise than the search; few labels tie that closely.
    assert np.mean(np.asarray(dense) != pruned) < 1e-3
