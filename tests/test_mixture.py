"""Mixtures against the paper's cost, scikit-learn, and their own dense form."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import sklearn.mixture
import synthetic_mixtures as synthetic

from gladjax import estimation, mixture

# One program each instead of dozens of small ones: most of the time here is compiling.
COSTS = jax.jit(jax.vmap(mixture.costs, in_axes=(None, 0)))
LOG_PROB = jax.jit(jax.vmap(mixture.log_prob, in_axes=(None, 0)))
FROM_MOMENTS = jax.jit(mixture.from_moments)
COVARIANCES = jax.jit(mixture.covariances)


def built(rng, k, d, *, dtype=np.float64, dead=0):
    """A mixture, and its moments as the twin has them."""
    moments = synthetic.moments(rng, k, d, dead=dead)
    return FROM_MOMENTS(*(jnp.asarray(m, dtype) for m in moments)), moments


def mixed(rng, *, min_count=1):
    """A fitted mixture of rank 1, 2, 5 and d in 12 dimensions, and its moments."""
    x, labels = synthetic.clusters(rng, [1, 2, 5, 12, 40, 1], 12)
    fitted = estimation.maximize(x, labels.astype(np.int32), 6, min_count=min_count)
    return fitted, oracles.maximize(x, labels, 6, min_count=min_count), x


# Against the paper


@pytest.mark.parametrize("d", [1, 8, 40])
def test_costs_match_equation_1(x64, rng, variant, d):
    built_, moments = built(rng, 4, d)
    x = rng.normal(size=d)
    costs = variant(mixture.costs)(built_, jnp.asarray(x))
    np.testing.assert_allclose(costs, oracles.all_costs([x], moments)[0], rtol=1e-9)


def test_costs_of_mixed_ranks_match_equation_1(x64, rng):
    fitted, moments, x = mixed(rng)
    assert sorted(set(fitted.ranks.tolist())) == [1, 2, 5, 12]
    costs = COSTS(fitted, jnp.asarray(x[:20]))
    np.testing.assert_allclose(costs, oracles.all_costs(x[:20], moments), rtol=1e-8)


def test_costs_in_float32_are_exact_to_rounding(rng):
    single, moments = built(rng, 4, 40, dtype=np.float32)
    x = rng.normal(size=(5, 40)).astype(np.float32)
    expected = oracles.all_costs(x, moments)
    np.testing.assert_allclose(COSTS(single, jnp.asarray(x)), expected, 1e-4)


@pytest.mark.parametrize(("dtype", "rtol"), [(np.float64, 1e-8), (np.float32, 1e-4)])
def test_completed_components_cost_the_same(x64, rng, dtype, rtol):
    x, labels = synthetic.clusters(rng, [1, 2, 6, 7, 11, 12, 40], 12)
    x = x.astype(dtype)
    few = estimation.maximize(x, labels.astype(np.int32), 7, min_count=1)
    some = mixture.completed(few)
    assert sorted(set(few.ranks.tolist())) == [1, 2, 6, 7, 11, 12]
    assert some.ranks.tolist() == [1, 2, 6, 12, 12, 12, 12]
    assert len(some.rows) == some.ranks.sum()
    assert len(some.inverses) == 1 + 4 + 36
    assert some.rows.dtype == some.scales.dtype == dtype
    first = some.offsets[3]
    assert not np.any(np.triu(some.rows[first : first + 12], 1))
    moments = oracles.maximize(x.astype(np.float64), labels, 7, min_count=1)
    costs = COSTS(jax.tree.map(jnp.asarray, some), jnp.asarray(x[:20]))
    expected = oracles.all_costs(x[:20].astype(np.float64), moments)
    np.testing.assert_allclose(costs, expected, rtol=rtol)
    jax.tree.map(np.testing.assert_array_equal, mixture.completed(some), some)


def test_covariances_are_those_of_the_paper(x64, rng):
    fitted, moments, _ = mixed(rng)
    np.testing.assert_allclose(COVARIANCES(fitted), moments[2], rtol=0, atol=1e-10)


# Against a stranger


@pytest.mark.parametrize("d", [1, 8, 40])
def test_log_prob_is_scikit_learns(x64, rng, d):
    ours, (weights, means, covariances) = built(rng, 4, d)
    theirs = sklearn.mixture.GaussianMixture(4)
    theirs.weights_, theirs.means_, theirs.covariances_ = weights, means, covariances
    theirs.precisions_cholesky_ = np.swapaxes(
        np.linalg.inv(np.linalg.cholesky(covariances)), 1, 2
    )
    x = 3 * rng.normal(size=(9, d))
    log_prob = LOG_PROB(ours, jnp.asarray(x))
    np.testing.assert_allclose(log_prob, theirs.score_samples(x), rtol=1e-10)


# Laws


def test_moments_survive_the_way_there_and_back(x64, rng):
    built_, (weights, means, covariances) = built(rng, 4, 8)
    np.testing.assert_allclose(jnp.exp(built_.log_weights), weights, rtol=1e-14)
    np.testing.assert_array_equal(built_.means, means)
    np.testing.assert_allclose(COVARIANCES(built_), covariances, atol=1e-12)


def test_weights_are_divided_by_their_sum(rng):
    weights, means, covariances = synthetic.moments(rng, 3, 2)
    arrays = (jnp.asarray(a, jnp.float32) for a in (7 * weights, means, covariances))
    built_ = FROM_MOMENTS(*arrays)
    assert float(jnp.sum(jnp.exp(built_.log_weights))) == pytest.approx(1, abs=1e-6)


def test_a_density_integrates_to_one(x64, rng):
    built_, _ = built(rng, 3, 1)
    x = np.linspace(-30, 30, 6001)[:, None]
    log_prob = LOG_PROB(built_, jnp.asarray(x))
    assert float(jnp.sum(jnp.exp(log_prob)) * 0.01) == pytest.approx(1, abs=1e-9)


def test_every_row_has_its_owner(rng):
    fitted, _, _ = mixed(rng)
    expected = np.repeat(np.arange(6), fitted.ranks)
    owners = np.asarray(mixture.owners(fitted))
    np.testing.assert_array_equal(owners[: len(expected)], expected)
    assert np.all(owners[len(expected) :] == 6)


def test_compacting_changes_no_cost(x64, rng):
    fitted, _, x = mixed(rng, min_count=2)
    small = mixture.compact(fitted)
    alive = np.flatnonzero(np.isfinite(fitted.log_weights))
    assert alive.tolist() == [1, 2, 3, 4]
    assert small.means.shape[0] == 4
    assert small.rows.shape[0] == int(np.sum(small.ranks))
    x = jnp.asarray(x[:20])
    np.testing.assert_allclose(COSTS(small, x), COSTS(fitted, x)[:, alive], rtol=1e-13)
    assert mixture.num_bytes(small) < mixture.num_bytes(fitted)


@pytest.mark.parametrize("spare", [mixture.SPARE, 0])
def test_room_for_more_changes_no_cost(x64, rng, monkeypatch, spare):
    """Unused rows and dead components at the end, in sizes of which there are few."""
    monkeypatch.setattr(mixture, "SPARE", spare)
    fitted, _, x = mixed(rng)
    fitted = mixture.compact(fitted)
    large = mixture.roomy(fitted, together=8)
    (k, d), x = fitted.means.shape, jnp.asarray(x[:20])
    assert len(large.means) == 8 > k
    assert len(large.rows) == (k * d if spare else mixture.room(1)) > len(fitted.rows)
    squares = k * (d - 1) ** 2
    assert len(large.inverses) == (squares if spare else mixture.room(1))
    assert mixture.roomy(large, together=4).means.shape == large.means.shape
    costs = COSTS(large, x)
    np.testing.assert_allclose(costs[:, :k], COSTS(fitted, x), rtol=1e-13)
    assert np.all(np.isposinf(costs[:, k:]))
    owners = np.asarray(mixture.owners(large))
    expected = np.repeat(np.arange(k), fitted.ranks)
    np.testing.assert_array_equal(owners[: len(expected)], expected)
    assert np.all(owners[len(expected) :] == 8)
    back = mixture.compact(large)
    jax.tree.map(np.testing.assert_array_equal, back, fitted)
    few = mixture.roomy(fitted)
    assert mixture.num_bytes(few) == mixture.num_bytes(fitted)


@pytest.mark.parametrize("exponent", [-40, 0, 7])
def test_scaling_the_samples_scales_the_mixture(x64, rng, exponent):
    fitted, _, x = mixed(rng)
    scaled = mixture.rescaled(fitted, exponent)
    expected = COSTS(fitted, jnp.asarray(x[:20])) + 2 * 12 * exponent * np.log(2)
    costs = COSTS(scaled, jnp.asarray(np.ldexp(x[:20], exponent)))
    np.testing.assert_allclose(costs, expected, rtol=1e-10)
    sigma = COVARIANCES(fitted) * 4.0**exponent
    np.testing.assert_allclose(COVARIANCES(scaled), sigma, rtol=1e-9)


def test_parts_joined_are_the_whole(x64, rng):
    fitted, _, x = mixed(rng)
    parts = [
        mixture.chosen(fitted, np.arange(2)),
        mixture.chosen(fitted, np.arange(2, 6)),
    ]
    whole = mixture.join(parts)
    x = jnp.asarray(x[:20])
    np.testing.assert_allclose(COSTS(whole, x), COSTS(fitted, x), rtol=1e-13)
    back = mixture.chosen(fitted, np.array([3, 0]))
    np.testing.assert_allclose(COSTS(back, x), COSTS(fitted, x)[:, [3, 0]], rtol=1e-13)


# Corners


def test_dead_components_cost_infinity_and_weigh_nothing(x64, rng):
    all_of_them, moments = built(rng, 5, 8, dead=2)
    living = FROM_MOMENTS(*(jnp.asarray(m[2:]) for m in moments))
    x = jnp.asarray(rng.normal(size=(3, 8)))
    costs = COSTS(all_of_them, x)
    assert np.all(np.isposinf(costs[:, :2]))
    assert np.all(np.isfinite(costs[:, 2:]))
    ours = LOG_PROB(all_of_them, x)
    np.testing.assert_allclose(ours, LOG_PROB(living, x), rtol=1e-13)
    assert mixture.compact(all_of_them).means.shape[0] == 3


def test_compacting_away_everything_leaves_nothing():
    fitted, _, _ = mixed(np.random.default_rng(0), min_count=1000)
    empty = mixture.compact(fitted)
    assert empty.means.shape == (0, 12)
    assert empty.rows.shape == (0, 12)


# Transformations


def test_vmap_over_mixtures_equals_a_loop(x64, rng):
    moments = [synthetic.moments(rng, 3, 4) for _ in range(2)]
    stacked = [jnp.asarray(np.stack(parts)) for parts in zip(*moments, strict=True)]
    x = jnp.asarray(rng.normal(size=(3, 4)))
    mixtures = jax.jit(jax.vmap(mixture.from_moments))(*stacked)
    many = jax.jit(jax.vmap(COSTS, in_axes=(0, None)))(mixtures, x)
    for i, parts in enumerate(moments):
        one = COSTS(FROM_MOMENTS(*map(jnp.asarray, parts)), x)
        np.testing.assert_allclose(many[i], one, rtol=1e-12)


def test_the_gradient_at_a_sample_is_finite_with_dead_components(rng):
    built_, _ = built(rng, 4, 8, dtype=np.float32, dead=1)
    x = jnp.asarray(rng.normal(size=8), jnp.float32)
    gradient = jax.jit(jax.grad(mixture.log_prob, argnums=1))(built_, x)
    assert np.all(np.isfinite(gradient))
    assert np.any(gradient)


# Refusals


def test_moments_of_other_shapes_are_refused(rng):
    weights, means, covariances = (
        jnp.asarray(m, jnp.float32) for m in synthetic.moments(rng, 3, 2)
    )
    with pytest.raises((ValueError, TypeError), match="weights"):
        mixture.from_moments(weights[:2], means, covariances)


@pytest.mark.parametrize(
    ("part", "index", "value", "message"),
    [
        (0, 0, -1.0, "weights must be nonnegative"),
        (0, slice(None), 0.0, "not all 0"),
        (0, 0, np.nan, "weights must be nonnegative"),
        (2, (1, 0, 1), 9.0, r"covariances\[1\] is not symmetric"),
        (2, 1, -np.eye(2), r"covariances\[1\] is not .* positive definite"),
        (2, 2, np.nan, r"covariances\[2\] is not"),
    ],
)
def test_impossible_moments_are_refused(rng, part, index, value, message):
    moments = [np.array(m, np.float32) for m in synthetic.moments(rng, 3, 2)]
    moments[part][index] = value
    with pytest.raises(ValueError, match=message):
        mixture.from_moments(*(jnp.asarray(m) for m in moments))
