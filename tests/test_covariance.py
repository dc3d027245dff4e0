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


def roots(samples, size, dtype):
    """The centred samples as rows of a block."""
    block = np.zeros((size, samples.shape[1]), dtype)
    block[: len(samples)] = samples - samples.mean(axis=0)
    return jnp.asarray(block)


def dense(factor, B=None):
    """The covariance matrix that a factor stands for, and its inverse."""
    if B is None:
        rows = np.asarray(factor.rows, np.float64)
        return np.linalg.inv(rows.T @ rows), rows.T @ rows
    B, H = np.asarray(B, np.float64), np.asarray(factor.inverse, np.float64)
    a, s, d = float(factor.scale), float(factor.noise), B.shape[1]
    sigma = s * np.eye(d) + a * B.T @ B
    return sigma, (np.eye(d) - a * B.T @ H @ B) / s


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
    B = roots(x, 24, np.float64)
    factor = covariance.spiked(B, n, jnp.asarray(1e-6))
    sigma = oracles.shrunk(oracles.scatter(x)[1], n, 1e-6)
    ours, inverse = dense(factor, B)
    np.testing.assert_allclose(ours, sigma, rtol=0, atol=1e-12 * np.trace(sigma))
    error = 1e-10 * np.abs(np.linalg.inv(sigma)).max()
    np.testing.assert_allclose(inverse, np.linalg.inv(sigma), rtol=0, atol=error)
    log_det = np.linalg.slogdet(sigma)[1]
    assert float(factor.log_det) == pytest.approx(log_det, rel=1e-12, abs=1e-11)


def test_spikes_in_float32_agree_with_float64(rng):
    x = samples_of(rng, 9, 24)
    B = roots(x, 16, np.float32)
    factor = covariance.spiked(B, 9, jnp.float32(1e-6))
    sigma = oracles.shrunk(oracles.scatter(x.astype(np.float32))[1], 9, 1e-6)
    # Sums of 9 products of numbers rounded to 2^-24.
    np.testing.assert_allclose(
        dense(factor, B)[0], sigma, rtol=0, atol=1e-5 * np.abs(sigma).max()
    )
    log_det = np.linalg.slogdet(sigma)[1]
    assert float(factor.log_det) == pytest.approx(log_det, abs=1e-4)


@pytest.mark.parametrize("n", [25, 400])
def test_whitening_is_of_the_shrunk_covariance(x64, rng, n):
    x = samples_of(rng, n, 24)
    _, S = oracles.scatter(x)
    factor = covariance.whitened(jnp.asarray(n * S), n, jnp.asarray(1e-6))
    sigma = oracles.shrunk(S, n, 1e-6)
    assert not np.any(np.triu(factor.rows, 1))
    np.testing.assert_allclose(
        dense(factor)[0], sigma, rtol=0, atol=1e-11 * np.abs(sigma).max()
    )
    assert float(factor.scale) == pytest.approx(np.trace(sigma) / 24, rel=1e-12)
    log_det = np.linalg.slogdet(sigma)[1]
    assert float(factor.log_det) == pytest.approx(log_det, rel=1e-12, abs=1e-11)


@pytest.mark.parametrize("n", [5, 40])
def test_without_shrinkage_the_floor_is_the_noise(x64, rng, n):
    x = samples_of(rng, n, 24)
    _, S = oracles.scatter(x)
    floor, plain = jnp.asarray(0.01), covariance.no_shrinkage
    if n > 24:
        factor = covariance.whitened(jnp.asarray(n * S), n, floor, shrinkage=plain)
        ours = dense(factor)[0]
    else:
        B = roots(x, 24, np.float64)
        ours = dense(covariance.spiked(B, n, floor, shrinkage=plain), B)[0]
    sigma = oracles.shrunk(S, n, 0.01, rho=0.0)
    np.testing.assert_allclose(ours, sigma, rtol=0, atol=1e-11 * np.abs(sigma).max())


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
    B = roots(x, 24, np.float64)
    spikes = covariance.spiked(B, 24, jnp.asarray(1e-6))
    S = oracles.scatter(x)[1]
    whole = covariance.whitened(jnp.asarray(24 * S), 24, jnp.asarray(1e-6))
    np.testing.assert_allclose(dense(spikes, B)[0], dense(whole)[0], atol=1e-10)
    assert float(spikes.log_det) == pytest.approx(float(whole.log_det), abs=1e-9)


def test_the_noise_stays_above_rounding(rng):
    # Without shrinkage and with a tiny floor the factor would not exist in float32.
    x = samples_of(rng, 200, 24)
    x[:, 3] = x[:, 2]
    S = jnp.asarray(oracles.scatter(x)[1], jnp.float32)
    plain = covariance.no_shrinkage
    factor = covariance.whitened(200 * S, 200, jnp.float32(1e-20), shrinkage=plain)
    assert np.all(np.isfinite(factor.rows))
    least = covariance.LEAST * np.finfo(np.float32).eps * float(jnp.trace(S))
    assert float(factor.noise) == pytest.approx(least, rel=1e-5)


def test_unused_rows_change_nothing(x64, rng):
    x = samples_of(rng, 6, 24)
    small = covariance.spiked(roots(x, 6, np.float64), 6, jnp.asarray(1e-6))
    large = covariance.spiked(roots(x, 20, np.float64), 6, jnp.asarray(1e-6))
    np.testing.assert_allclose(large.inverse[:6, :6], small.inverse, rtol=1e-10)
    assert not np.any(large.inverse[:6, 6:])
    assert float(large.log_det) == pytest.approx(float(small.log_det), rel=1e-12)


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
    np.testing.assert_allclose(dense(factor)[0], S, rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [0, 1, 3, 7])
def test_copies_get_the_floor(x64, n, dtype):
    factor = covariance.spiked(jnp.zeros((8, 12), dtype), n, jnp.asarray(1e-3, dtype))
    assert float(factor.scale) == 0
    assert float(factor.noise) == pytest.approx(1e-3)
    assert float(factor.log_det) == pytest.approx(12 * np.log(1e-3), rel=1e-6)


def test_a_scatter_of_zero_gets_the_floor():
    zero = jnp.zeros((4, 4), jnp.float32)
    factor = covariance.whitened(zero, 9, jnp.float32(1e-3))
    np.testing.assert_allclose(dense(factor)[0], 1e-3 * np.eye(4), rtol=1e-6)


def test_constant_features_get_the_noise(x64, rng):
    x = samples_of(rng, 40, 6)
    x[:, 2] = 5.0
    _, S = oracles.scatter(x)
    factor = covariance.whitened(jnp.asarray(40 * S), 40, jnp.asarray(1e-6))
    sigma = oracles.shrunk(S, 40, 1e-6)
    assert sigma[2, 2] == pytest.approx(oracles.oas(S, 40) * np.trace(S) / 6)
    np.testing.assert_allclose(dense(factor)[0], sigma, atol=1e-12)


# Transformations


def test_vmap_equals_a_loop(rng):
    x = jnp.asarray(rng.normal(size=(3, 8, 12)), jnp.float32)
    counts = jnp.asarray([3.0, 8.0, 20.0], jnp.float32)
    floor = jnp.float32(1e-6)
    many = jax.vmap(covariance.spiked, in_axes=(0, 0, None))(x, counts, floor)
    for i in range(3):
        one = covariance.spiked(x[i], counts[i], floor)
        for a, b in zip(many, one, strict=True):
            np.testing.assert_allclose(a[i], b, rtol=1e-4, atol=1e-5)


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
