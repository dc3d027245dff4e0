"""Negligible spikes go into the noise, and distances stay."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gladjax import factors, mixture, truncation


def with_small_spikes(rng, *, excess):
    """Five components in 12 dimensions; two of six spikes are close to the noise."""
    k, d, r = 5, 12, 6
    noise = rng.uniform(0.5, 2, k)
    variances = noise[:, None] * np.array([9, 5, 3, 2, 1 + excess, 1 + excess / 3])
    basis = np.stack([np.linalg.qr(rng.normal(size=(d, d)))[0][:r] for _ in range(k)])
    rows = basis * np.sqrt(variances - noise[:, None])[:, :, None]
    log_dets = np.log(variances).sum(axis=1) + (d - r) * np.log(noise)
    given = mixture.GaussianMixture(
        log_weights=jnp.log(jnp.full(k, 0.2)),
        means=jnp.asarray(rng.normal(size=(k, d)) * 3),
        rows=jnp.asarray(rows.reshape(-1, d)),
        inverses=jnp.zeros((0,)),
        offsets=jnp.arange(k, dtype=jnp.int32) * r,
        ranks=jnp.full(k, r, jnp.int32),
        scales=jnp.ones(k),
        noise=jnp.asarray(noise),
        log_dets=jnp.asarray(log_dets),
    )
    return factors.solved(given, mixture.num_inverses(given))


def test_distances_change_by_the_tolerance_at_most(x64, rng):
    before = with_small_spikes(rng, excess=0.02)
    after = truncation.merge_spikes(before, tolerance=0.021)
    np.testing.assert_array_equal(after.ranks, 4)
    assert after.rows.shape == (20, 12)
    dense, merged = (np.asarray(mixture.covariances(m)) for m in (before, after))
    np.testing.assert_allclose(
        np.trace(merged, axis1=1, axis2=2), np.trace(dense, axis1=1, axis2=2)
    )
    np.testing.assert_allclose(np.linalg.slogdet(merged)[1], after.log_dets)
    x = rng.normal(size=(40, 12)) * 4
    distance = jax.vmap(mixture.mahalanobis, in_axes=(None, 0))
    change = np.asarray(distance(after, x)) / np.asarray(distance(before, x)) - 1
    assert 1e-5 < np.abs(change).max() < 0.021


def test_what_is_far_from_the_noise_stays(x64, rng):
    before = with_small_spikes(rng, excess=0.02)
    after = truncation.merge_spikes(before, tolerance=0.001)
    np.testing.assert_array_equal(after.ranks, before.ranks)
    dense, merged = (np.asarray(mixture.covariances(m)) for m in (before, after))
    np.testing.assert_allclose(merged, dense, atol=1e-12)
    np.testing.assert_allclose(after.log_dets, before.log_dets)


def test_complete_components_stay(x64, rng):
    before = mixture.from_moments(
        jnp.ones(2), jnp.zeros((2, 3)), jnp.stack([jnp.eye(3), 2 * jnp.eye(3)])
    )
    after = truncation.merge_spikes(before)
    np.testing.assert_array_equal(after.rows, before.rows)


def test_a_negative_tolerance_is_refused(rng):
    with pytest.raises(ValueError, match="tolerance must be 0 or more"):
        truncation.merge_spikes(with_small_spikes(rng, excess=0.1), tolerance=-1.0)
