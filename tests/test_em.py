"""EM, step by step, against its literal twin and scikit-learn, from the same start."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import oracles_em
import pytest
import synthetic_mixtures as synthetic
from sklearn.mixture import GaussianMixture as Stranger

from gladjax import covariance, em, kmle, mixture

KEY = jax.random.key(0)
STEP = jax.jit(em.step, static_argnames=("min_count", "shrinkage"))
# More, about as many, and fewer samples than features; close enough to be soft.
SHAPES = {
    "many": ([40, 50, 60], 4, 2.0),
    "mixed": ([9, 12, 13, 40], 12, 1.5),
    "few": ([8, 11, 20], 24, 2.0),
}


def start(rng, name, *, dtype=np.float64):
    """Samples, and moments of a wrong assignment: a start that has to move."""
    counts, d, distance = SHAPES[name]
    x, labels = synthetic.clusters(rng, counts, d, distance=distance)
    astray = rng.random(len(x)) < 0.4
    labels = np.where(astray, rng.integers(0, len(counts), len(x)), labels)
    x = x.astype(dtype)
    return x, oracles.maximize(x, labels, len(counts))


def state(moments, dtype=np.float64):
    return em.EMState(
        mixture.from_moments(*(jnp.asarray(a, dtype) for a in moments)), jnp.int32(0)
    )


def snapshot(moments, n, dtype=np.float64):
    """A fit that has this mixture and has not made a step."""
    begin = jax.tree.map(np.asarray, state(moments, dtype).mixture)
    return kmle.Snapshot(0, np.full(n, -1, np.int32), np.zeros((0, 5)), begin)


def check(fitted, moments, atol):
    weights, means, covariances = moments
    alive = weights > 0
    np.testing.assert_allclose(np.exp(fitted.log_weights), weights, atol=atol)
    scale = np.abs(means[alive]).max()
    found = np.asarray(fitted.means)[alive]
    np.testing.assert_allclose(found, means[alive], rtol=0, atol=atol * scale)
    scale = np.abs(covariances[alive]).max()
    dense = synthetic.dense(fitted)[alive]
    np.testing.assert_allclose(dense, covariances[alive], rtol=0, atol=atol * scale)


# Against the twin


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", SHAPES)
def test_steps_match_the_twin(name, dtype):
    atol = 1e-9 if dtype == np.float64 else 1e-4
    with jax.enable_x64(dtype == np.float64):
        x, moments = start(np.random.default_rng(0), name, dtype=dtype)
        now = state(moments, dtype)
        for number in range(2):
            moments, shares, likelihood = oracles_em.step(x, moments)
            now, info = STEP(now, jnp.asarray(x))
            check(now.mixture, moments, atol)
            assert float(info.log_likelihood) == pytest.approx(likelihood, rel=atol)
            np.testing.assert_array_equal(info.labels, shares.argmax(axis=1))
            assert int(info.num_components) == np.sum(moments[0] > 0)
            assert int(now.iteration) == number + 1
        assert np.sum((shares > 0.01) & (shares < 0.99)) > 0 or name == "few"


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", SHAPES)
def test_a_fit_matches_the_twin(name, dtype):
    atol = 1e-8 if dtype == np.float64 else 3e-4
    with jax.enable_x64(dtype == np.float64):
        x, moments = start(np.random.default_rng(1), name, dtype=dtype)
        begin = snapshot(moments, len(x), dtype)
        seen = []
        fitted, info = em.fit(
            KEY, x, max_steps=6, tolerance=1e-5, resume=begin, monitor=seen.append
        )
        moments, history = oracles_em.fit(x, moments, max_steps=6, tolerance=1e-5)
        assert len(seen) == len(history) > 1
        np.testing.assert_allclose(info.log_likelihood, history, rtol=atol)
        alive = moments[0] > 0
        check(fitted, tuple(part[alive] for part in moments), atol)
        ranks = np.asarray(fitted.ranks)
        full = x.shape[0] > x.shape[1]
        assert np.all(ranks < x.shape[1]) or full


# Against a stranger


@pytest.mark.parametrize("steps", [1, 8])
def test_without_shrinkage_it_is_scikit_learns(x64, steps):
    x, moments = start(np.random.default_rng(2), "many")
    weights, means, covariances = moments
    floor = oracles.floor_variance(x)  # It stands beside the scatter here and there.
    begin = snapshot(moments, len(x))
    fitted, info = em.fit(
        KEY,
        x,
        max_steps=steps,
        tolerance=0.0,
        shrinkage=covariance.no_shrinkage,
        resume=begin,
    )
    stranger = Stranger(
        len(weights),
        max_iter=steps,
        tol=0.0,
        reg_covar=floor,
        weights_init=weights,
        means_init=means,
        precisions_init=np.linalg.inv(covariances),
    )
    with pytest.warns(match="converge"):
        stranger.fit(x)
    expected = stranger.weights_, stranger.means_, stranger.covariances_
    check(fitted, expected, 1e-9)
    assert info.log_likelihood[-1] == pytest.approx(stranger.lower_bound_, rel=1e-9)


# Laws


@pytest.mark.parametrize("form", ["fit", "step"])
def test_without_shrinkage_the_likelihood_never_falls(x64, rng, form):
    x, moments = start(rng, "many")
    options = {"shrinkage": covariance.no_shrinkage}
    if form == "fit":
        begin = snapshot(moments, len(x))
        _, info = em.fit(KEY, x, max_steps=25, tolerance=0.0, resume=begin, **options)
        likelihoods = info.log_likelihood
    else:
        now, likelihoods = state(moments), []
        for _ in range(25):
            now, info = STEP(now, jnp.asarray(x), **options)
            likelihoods.append(float(info.log_likelihood))
    # A floor of 1e-6 beside the scatter costs its square.
    assert np.all(np.diff(likelihoods) >= -1e-9)
    assert likelihoods[-1] > likelihoods[0] + 1e-2


def test_far_apart_it_is_kmle():
    x, labels = synthetic.clusters(
        np.random.default_rng(0), [30, 40, 50], 6, distance=60.0
    )
    x = x.astype(np.float32)
    soft, info = em.fit(KEY, x, num_components=3)
    hard, other = kmle.fit(KEY, x, num_components=3)
    np.testing.assert_array_equal(info.labels, other.labels)
    assert info._fields == other._fields
    assert info.converged
    np.testing.assert_allclose(soft.means, hard.means, atol=1e-3)
    np.testing.assert_allclose(
        synthetic.dense(soft), synthetic.dense(hard), atol=1e-2, rtol=1e-3
    )
    assert len(set(zip(labels.tolist(), info.labels.tolist(), strict=True))) == 3


def test_few_samples_stay_structured():
    x, _ = synthetic.clusters(np.random.default_rng(0), [10] * 5, 32, distance=60.0)
    fitted, _ = em.fit(KEY, x.astype(np.float32), num_components=5)
    counts = np.exp(fitted.log_weights) * 50
    # A row per sample, and none of the 32 that a complete component has.
    np.testing.assert_array_equal(fitted.ranks, np.round(counts))
    assert fitted.rows.shape[0] == 50


def test_an_interrupted_fit_goes_on_to_the_same_result(x64):
    x, moments = start(np.random.default_rng(1), "mixed")
    seen = []
    begin = snapshot(moments, len(x))
    fitted, info = em.fit(KEY, x, max_steps=8, resume=begin, monitor=seen.append)
    for at in (0, 3, len(seen) - 1):
        again, other = em.fit(KEY, x, max_steps=8, resume=seen[at])
        chex.assert_trees_all_equal(again, fitted)
        np.testing.assert_array_equal(other.labels, info.labels)
        np.testing.assert_array_equal(other.log_likelihood, info.log_likelihood)


def test_steps_of_both_forms_agree_from_the_same_seeds():
    x, _ = start(np.random.default_rng(0), "many", dtype=np.float32)
    init = jax.jit(em.init, static_argnames="num_components")
    now = init(KEY, jnp.asarray(x), num_components=3)
    assert now.mixture.rows.shape == (12, 4)
    begin = jax.tree.map(np.asarray, now.mixture)
    labels = np.full(len(x), -1, np.int32)
    begin = kmle.Snapshot(0, labels, np.zeros((0, 5)), begin)
    for _ in range(4):
        now, info = STEP(now, jnp.asarray(x))
    fitted, other = em.fit(KEY, x, max_steps=4, tolerance=0.0, resume=begin)
    alive = np.isfinite(now.mixture.log_weights)
    assert int(info.num_components) == other.num_components[-1] == alive.sum()
    found = np.asarray(now.mixture.means)[alive]
    np.testing.assert_allclose(found, fitted.means, atol=1e-4)
    assert float(info.log_likelihood) == pytest.approx(other.log_likelihood[-1], 1e-5)


# Corners


def test_light_components_are_dropped_and_the_rest_share_their_weight(x64):
    x, moments = start(np.random.default_rng(0), "many")
    _weights, means, _covariances = moments
    means[0] += 1e3  # Nothing is near.
    begin = snapshot(moments, len(x))
    fitted, info = em.fit(KEY, x, max_steps=2, tolerance=0.0, resume=begin)
    expected, _ = oracles_em.fit(x, moments, max_steps=2, tolerance=0.0)
    assert expected[0][0] == 0
    assert list(info.num_components) == [2, 2]
    check(fitted, tuple(part[1:] for part in expected), 1e-9)
    now, _ = STEP(state(moments), jnp.asarray(x))
    now, _ = STEP(now, jnp.asarray(x))
    check(now.mixture, expected, 1e-9)


@pytest.mark.parametrize("rubbish", [1e6, np.nan])
def test_invalid_samples_are_never_used(x64, rubbish):
    x, moments = start(np.random.default_rng(0), "mixed")
    valid = np.random.default_rng(1).random(len(x)) < 0.8
    expected, shares, likelihood = oracles_em.step(x, moments, valid=valid)
    x[~valid] = rubbish
    now, info = STEP(state(moments), jnp.asarray(x), valid=jnp.asarray(valid))
    check(now.mixture, expected, 1e-9)
    assert float(info.log_likelihood) == pytest.approx(likelihood, rel=1e-9)
    begin = snapshot(moments, len(x))
    fitted, other = em.fit(KEY, x, max_steps=1, valid=valid, resume=begin)
    alive = expected[0] > 0
    check(fitted, tuple(part[alive] for part in expected), 1e-9)
    np.testing.assert_array_equal(other.labels == -1, ~valid)
    np.testing.assert_array_equal(np.asarray(info.labels)[valid], shares.argmax(1))


@pytest.mark.parametrize("value", [0.0, 100.1])
def test_data_that_are_all_equal_give_the_floor(value):
    x = np.full((30, 4), value, np.float32)
    fitted, info = em.fit(KEY, x, num_components=3)
    np.testing.assert_allclose(fitted.means, value, rtol=1e-6)
    assert np.all(np.isfinite(info.log_likelihood))


def test_one_trace_serves_all_iterations_and_vmap_equals_a_loop():
    x, _ = start(np.random.default_rng(0), "many", dtype=np.float32)
    x = jnp.asarray(x)
    chex.clear_trace_counter()
    traced = jax.jit(chex.assert_max_traces(em.step, n=1))
    states = [em.init(k, x, num_components=3) for k in jax.random.split(KEY, 2)]
    many = jax.tree.map(lambda *a: jnp.stack(a), *states)
    many, infos = jax.jit(jax.vmap(em.step, in_axes=(0, None)))(many, x)
    for i, one in enumerate(states):
        now, info = traced(one, x)
        np.testing.assert_allclose(many.mixture.means[i], now.mixture.means, atol=1e-4)
        expected = pytest.approx(float(info.log_likelihood), rel=1e-5)
        assert float(infos.log_likelihood[i]) == expected
        traced(now, x)


# Refusals


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_components": 0}, "num_components"),
        ({"valid": np.zeros(10, bool)}, "no sample is valid"),
        ({"min_count": 0}, "min_count"),
        ({"max_steps": -1}, "max_steps"),
        ({"tolerance": float("nan")}, "tolerance"),
    ],
)
def test_impossible_options_are_refused(kwargs, message):
    x = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
    with pytest.raises(ValueError, match=message):
        em.fit(KEY, x, **kwargs)


def test_snapshots_and_states_of_another_kind_are_refused():
    x, moments = start(np.random.default_rng(0), "many", dtype=np.float32)
    begin = snapshot(moments, len(x) + 1, np.float32)
    with pytest.raises(ValueError, match="other features"):
        em.fit(KEY, x, resume=begin)
    few = kmle.init(KEY, jnp.asarray(x[:9]), num_components=3).mixture
    with pytest.raises(ValueError, match="rows"):
        em.step(em.EMState(few, 0), jnp.asarray(x))
