"""Shrinkage and compact factors against Eq. 9, scikit-learn and their laws."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import sklearn.covariance

from gladjax import covariance

SHAPES = [(5, 24), (24, 24), (400, 24)]  # n < d, n near d, n well above d


def samples_of(rng, n, d):
    return rng.normal(size=(n, d)) * np.exp(rng.normal(size=d)) + rng.normal(size=d)


def dense(factor, d):
    """The covariance matrix that a factor stands for."""
    rank = int(factor.rank)
    rows = np.asarray(factor.rows, np.float64)[:rank]
    variances = np.asarray(factor.variances, np.float64)[:rank]
    noise = float(factor.noise)
    if rank == d:
        return np.linalg.inv(rows.T @ rows)
    excess = variances * (variances - noise)
    return noise * np.eye(d) + (rows.T * excess) @ rows


def padded(samples, size, dtype):
    """A block of the given size, rubbish in its unused rows, and its mask."""
    block = np.full((size, samples.shape[1]), 1e3, dtype)
    block[: len(samples)] = samples
    return jnp.asarray(block), jnp.arange(size) < len(samples)


# Against the paper


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_oas_matches_equation_9(x64, rng, variant, n, d):
    _, S = oracles.scatter(samples_of(rng, n, d))
    rho = variant(covariance.oas_shrinkage)(jnp.asarray(n * S), jnp.asarray(n))
    assert float(rho) == pytest.approx(oracles.oas(S, n), rel=1e-12, abs=0)


def test_oas_of_a_factor_matches_equation_9(x64, rng):
    x = samples_of(rng, 7, 24)
    _, S = oracles.scatter(x)
    rho = covariance.oas(
        jnp.trace(jnp.asarray(S)), jnp.sum(jnp.square(jnp.asarray(S))), 7, 24
    )
    assert float(rho) == pytest.approx(oracles.oas(S, 7), rel=1e-12, abs=0)


@pytest.mark.parametrize("n", [2, 5, 24])
def test_spikes_are_the_shrunk_covariance(x64, rng, n):
    x = samples_of(rng, n, 24)
    mean, factor = covariance.spiked(*padded(x, 24, np.float64), jnp.asarray(1e-6))
    expected_mean, S = oracles.scatter(x)
    sigma = oracles.shrunk(S, n, 1e-6)
    np.testing.assert_allclose(mean, expected_mean, rtol=1e-12, atol=1e-14)
    scale = np.trace(sigma) / 24
    np.testing.assert_allclose(dense(factor, 24), sigma, rtol=0, atol=1e-11 * scale)
    log_det = np.linalg.slogdet(sigma)[1]
    assert float(factor.log_det) == pytest.approx(log_det, rel=1e-12, abs=1e-11)


def test_spikes_in_float32_agree_with_float64(rng):
    x = samples_of(rng, 9, 24)
    _, factor = covariance.spiked(*padded(x, 24, np.float32), jnp.float32(1e-6))
    sigma = oracles.shrunk(oracles.scatter(x.astype(np.float32))[1], 9, 1e-6)
    # The dense matrix is a sum of 9 outer products of rows rounded to 2^-24.
    np.testing.assert_allclose(
        dense(factor, 24), sigma, rtol=0, atol=1e-5 * np.abs(sigma).max()
    )
    log_det = np.linalg.slogdet(sigma)[1]
    assert float(factor.log_det) == pytest.approx(log_det, abs=1e-4)


@pytest.mark.parametrize("n", [25, 400])
def test_whitening_is_of_the_shrunk_covariance(x64, rng, n):
    x = samples_of(rng, n, 24)
    _, S = oracles.scatter(x)
    factor = covariance.whitened(jnp.asarray(n * S), n, jnp.asarray(1e-6))
    sigma = oracles.shrunk(S, n, 1e-6)
    assert int(factor.rank) == 24
    np.testing.assert_allclose(
        dense(factor, 24), sigma, rtol=0, atol=1e-11 * np.abs(sigma).max()
    )
    log_det = np.linalg.slogdet(sigma)[1]
    assert float(factor.log_det) == pytest.approx(log_det, rel=1e-12, abs=1e-11)


@pytest.mark.parametrize("n", [5, 40])
def test_without_shrinkage_the_floor_is_the_noise(x64, rng, n):
    x = samples_of(rng, n, 24)
    _, S = oracles.scatter(x)
    floor, plain = jnp.asarray(0.01), covariance.no_shrinkage
    if n > 24:
        factor = covariance.whitened(jnp.asarray(n * S), n, floor, shrinkage=plain)
    else:
        block = padded(x, 24, np.float64)
        _, factor = covariance.spiked(*block, floor, shrinkage=plain)
    sigma = oracles.shrunk(S, n, 0.01, rho=0.0)
    np.testing.assert_allclose(
        dense(factor, 24), sigma, rtol=0, atol=1e-11 * np.abs(sigma).max()
    )


# Against a stranger


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_oas_is_scikit_learns_but_for_two_small_terms(x64, rng, n, d):
    x = samples_of(rng, n, d)
    _, theirs = sklearn.covariance.oas(x)
    _, S = oracles.scatter(x)
    ours = float(covariance.oas_shrinkage(jnp.asarray(n * S), n))
    # They drop two terms. That of the numerator, -2/d tr(S^2), is at most 1/d of it as
    # tr(S^2) <= tr(S)^2; that of the denominator is 2/d beside n + 1.
    assert (1 - 1 / d) * theirs <= ours <= theirs / (1 - 2 / d / (n + 1)) + 1e-12


# Laws


def test_oas_ignores_scale_and_rotation(x64, rng):
    _, S = oracles.scatter(samples_of(rng, 30, 24))
    Q = np.linalg.qr(rng.normal(size=(24, 24)))[0]
    turned = 1e-3 * Q @ S @ Q.T
    a = covariance.oas_shrinkage(jnp.asarray(30 * S), 30)
    b = covariance.oas_shrinkage(jnp.asarray(30 * (turned + turned.T) / 2), 30)
    assert float(a) == pytest.approx(float(b), rel=1e-10)


def test_oas_is_an_intensity_that_falls_with_samples(rng):
    _, S = oracles.scatter(samples_of(rng, 60, 24))
    counts = [1, 2, 10, 100, 10_000]
    values = [
        float(covariance.oas_shrinkage(jnp.float32(n * S), jnp.float32(n)))
        for n in counts
    ]
    assert values[0] <= 1
    assert values[-1] > 0
    assert np.all(np.diff(values) <= 0)


@pytest.mark.parametrize("scale", [1e-15, 1e15])
def test_shrinkage_survives_extreme_scales_in_float32(rng, scale):
    _, S = oracles.scatter(samples_of(rng, 30, 24))
    rho = covariance.oas_shrinkage(jnp.asarray(30 * S * scale, jnp.float32), 30)
    assert float(rho) == pytest.approx(oracles.oas(S, 30), rel=1e-4)


def test_spikes_and_whitening_agree_where_both_apply(x64, rng):
    x = samples_of(rng, 24, 24)
    _, spikes = covariance.spiked(*padded(x, 24, np.float64), jnp.asarray(1e-6))
    S = oracles.scatter(x)[1]
    whole = covariance.whitened(jnp.asarray(24 * S), 24, jnp.asarray(1e-6))
    np.testing.assert_allclose(dense(spikes, 24), dense(whole, 24), atol=1e-10)
    assert float(spikes.log_det) == pytest.approx(float(whole.log_det), abs=1e-9)


def test_spikes_fall_and_are_fewer_than_samples(rng):
    x = samples_of(rng, 9, 24)
    _, factor = covariance.spiked(*padded(x, 16, np.float32), jnp.float32(1e-6))
    rank = int(factor.rank)
    assert rank == 8
    assert np.all(np.diff(factor.variances[:rank]) <= 0)
    assert np.all(np.asarray(factor.variances[:rank]) > float(factor.noise))
    assert not np.any(factor.rows[rank:])
    assert np.all(np.asarray(factor.variances[rank:]) == 1)


def test_the_order_and_the_place_of_samples_do_not_matter(x64, rng):
    x = samples_of(rng, 6, 24)
    block, mask = padded(x, 24, np.float64)
    order = rng.permutation(24)
    mean, factor = covariance.spiked(block, mask, jnp.asarray(1e-6))
    other_mean, other = covariance.spiked(block[order], mask[order], jnp.asarray(1e-6))
    np.testing.assert_allclose(mean, other_mean, rtol=1e-13)
    np.testing.assert_allclose(dense(factor, 24), dense(other, 24), atol=1e-12)


# Corners


@pytest.mark.parametrize("d", [1, 2, 24])
@pytest.mark.parametrize("n", [0, 1, 7])
def test_a_spherical_scatter_is_shrunk_completely(d, n):
    scatter = 3.0 * jnp.eye(d, dtype=jnp.float32)
    assert float(covariance.oas_shrinkage(scatter, n)) == 1
    assert float(covariance.oas_shrinkage(0 * scatter, n)) == 1


def test_one_dimension_keeps_its_variance(x64, rng):
    x = samples_of(rng, 50, 1)
    _, S = oracles.scatter(x)
    factor = covariance.whitened(jnp.asarray(50 * S), 50, jnp.asarray(1e-6))
    np.testing.assert_allclose(dense(factor, 1), S, rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [0, 1, 3, 7])
def test_copies_get_the_floor(x64, n, dtype):
    # Values whose sum of n rounds: the mean of copies need not be the copy.
    x = np.tile(np.linspace(100.1, 300.7, 12), (n, 1))
    block, mask = padded(x, 12, dtype)
    mean, factor = covariance.spiked(block, mask, jnp.asarray(1e-3, dtype))
    assert int(factor.rank) == 0
    assert float(factor.noise) == pytest.approx(1e-3)
    assert float(factor.log_det) == pytest.approx(12 * np.log(1e-3), rel=1e-6)
    if n:
        np.testing.assert_allclose(mean, x[0], rtol=1e-6)


def test_a_scatter_of_zero_gets_the_floor():
    zero = jnp.zeros((4, 4), jnp.float32)
    factor = covariance.whitened(zero, 9, jnp.float32(1e-3))
    np.testing.assert_allclose(dense(factor, 4), 1e-3 * np.eye(4), rtol=1e-6)


def test_constant_features_get_the_noise(x64, rng):
    x = samples_of(rng, 40, 6)
    x[:, 2] = 5.0
    _, S = oracles.scatter(x)
    factor = covariance.whitened(jnp.asarray(40 * S), 40, jnp.asarray(1e-6))
    sigma = oracles.shrunk(S, 40, 1e-6)
    assert sigma[2, 2] == pytest.approx(oracles.oas(S, 40) * np.trace(S) / 6)
    np.testing.assert_allclose(dense(factor, 6), sigma, atol=1e-12)


def test_pairs_have_one_spike(x64, rng):
    x = samples_of(rng, 2, 24)
    _, factor = covariance.spiked(*padded(x, 8, np.float64), jnp.asarray(1e-6))
    assert int(factor.rank) <= 1
    sigma = oracles.shrunk(oracles.scatter(x)[1], 2, 1e-6)
    np.testing.assert_allclose(dense(factor, 24), sigma, atol=1e-11 * sigma.max())


# Transformations


def test_vmap_equals_a_loop(rng):
    x = jnp.asarray(rng.normal(size=(3, 8, 12)), jnp.float32)
    mask = jnp.arange(8)[None, :] < jnp.array([[2], [5], [8]])
    floor = jnp.float32(1e-6)
    many = jax.vmap(covariance.spiked, in_axes=(0, 0, None))(x, mask, floor)
    for i in range(3):
        one = covariance.spiked(x[i], mask[i], floor)
        sigma = dense(jax.tree.map(lambda leaf, i=i: leaf[i], many[1]), 12)
        np.testing.assert_allclose(sigma, dense(one[1], 12), atol=1e-5)
        np.testing.assert_allclose(many[0][i], one[0], atol=1e-6)


def test_one_trace_serves_all_counts(rng):
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def traced(scatter, count):
        return covariance.oas_shrinkage(scatter, count)

    S = jnp.asarray(oracles.scatter(samples_of(rng, 30, 24))[1], jnp.float32)
    values = [float(traced(n * S, jnp.int32(n))) for n in (2, 30, 500)]
    assert values[0] > values[1] > values[2]


# Refusals


@pytest.mark.parametrize("shape", [(3, 2), (4,)])
def test_a_scatter_that_is_not_square_is_refused(shape):
    with pytest.raises((ValueError, TypeError), match="scatter"):
        covariance.oas_shrinkage(jnp.ones(shape, jnp.float32), 3)
