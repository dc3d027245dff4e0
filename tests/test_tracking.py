"""Assignments that are kept up, against the dense argmin and against whole searches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import synthetic_mixtures as synthetic

from gladjax import assign, covariance, estimation, kmle, samples, steps
from gladjax.assign import tracking

K = 12


def fitted_to(x, labels):
    return estimation.maximize(x, labels, K)


def pair(seed, d, dtype, *, moved=8):
    """Samples, two mixtures of them, and which components differ."""
    rng = np.random.default_rng(seed)
    x, before = synthetic.clusters(rng, [30 + 7 * i for i in range(K)], d, distance=2.0)
    x, before = x.astype(dtype), before.astype(np.int32)
    after = before.copy()
    some = rng.choice(np.flatnonzero(before < K // 3), moved, replace=False)
    after[some] = (before[some] + 1) % (K // 3)
    changed = np.zeros(K, bool)
    changed[before[some]] = changed[after[some]] = True
    return x, fitted_to(x, before), fitted_to(x, after), changed


def costs(x, fitted):
    """Every cost in float64, (n, k), from dense covariances."""
    every = []
    weights = np.exp(np.asarray(fitted.log_weights, np.float64))
    parts = weights, np.asarray(fitted.means, np.float64), synthetic.dense(fitted)
    for weight, mean, sigma in zip(*parts, strict=True):
        e = x.astype(np.float64) - mean
        distance = np.einsum("nd,nd->n", e, np.linalg.solve(sigma, e.T).T)
        every.append(distance + np.linalg.slogdet(sigma)[1] - 2 * np.log(weight))
    return np.stack(every, axis=1)


def whole(x, fitted, used):
    """The assignment by a whole search."""
    axes = samples.axes(jnp.asarray(x), jnp.asarray(used))
    bounds = assign.prepared(fitted, axes)
    none = jnp.full(len(x), -1, jnp.int32)
    found = steps._search(fitted, bounds, jnp.asarray(x), used, none, 0, True)
    return found[0], axes


def kept_up(x, known, fitted, axes, changed, used):
    bounds = assign.prepared(fitted, axes)
    x, used = jnp.asarray(x), jnp.asarray(used)
    return assign.updated(fitted, bounds, x, known, changed, used)


@pytest.mark.parametrize(
    ("d", "dtype", "width"),
    [
        (3, np.float64, 3),
        (40, np.float64, 128),
        (40, np.float32, 5),
        (130, np.float32, 128),
    ],
)
def test_labels_are_those_of_the_dense_argmin(x64, monkeypatch, d, dtype, width):
    monkeypatch.setattr(tracking, "WIDTH", width)
    moved = 0
    for seed in range(3):
        x, first, second, changed = pair(seed, d, dtype)
        used = np.ones(len(x), bool)
        known, axes = whole(x, first, used)
        found, _ = kept_up(x, known, second, axes, changed, used)
        every = costs(x, second)
        rows = np.arange(len(x))
        labels = np.asarray(found.labels)
        least = every.min(axis=1)
        rounding = (1e-3 if dtype == np.float32 else 1e-8) * (1 + np.abs(least))
        assert np.all(every[rows, labels] - least <= rounding)
        assert np.all(np.abs(np.asarray(found.costs) - least) <= rounding)
        every[rows, labels] = np.inf
        assert np.all(np.asarray(found.rest) <= every.min(axis=1) + rounding)
        moved += int(np.sum(labels != np.asarray(known.labels)))
    assert moved > 0


def test_what_did_not_change_is_not_looked_at(x64):
    x, first, _, _ = pair(0, 5, np.float64)
    used = np.ones(len(x), bool)
    known, axes = whole(x, first, used)
    found, seen = kept_up(x, known, first, axes, np.zeros(K, bool), used)
    for one, other in zip(found, known, strict=True):
        np.testing.assert_array_equal(one, other)
    assert seen.tolist() == [0, 0]


def test_samples_that_do_not_count_stay_without_a_label():
    x, first, second, changed = pair(1, 6, np.float32)
    used = np.arange(len(x)) % 3 > 0
    x[::6] = np.nan
    known, axes = whole(x, first, used)
    found, _ = kept_up(x, known, second, axes, changed, used)
    again, _ = whole(x, second, used)
    assert np.all(np.asarray(found.labels)[~used] == -1)
    np.testing.assert_array_equal(found.labels, again.labels)


def test_of_equal_components_the_first_is_taken(x64):
    x, first, _, _ = pair(2, 4, np.float64)
    used, last = np.ones(len(x), bool), K - 1

    def copied(a):  # The first component becomes a copy of the last one.
        return a.at[0].set(a[last]) if a.shape[0] == K else a

    second = jax.tree.map(copied, first)
    changed = np.arange(K) == 0
    known, axes = whole(x, first, used)
    assert np.any(np.asarray(known.labels) == last)
    found, _ = kept_up(x, known, second, axes, changed, used)
    np.testing.assert_array_equal(found.labels, whole(x, second, used)[0].labels)
    assert not np.any(np.asarray(found.labels) == last)


@pytest.mark.parametrize("min_count", [2, 9])
def test_a_fit_goes_the_same_way(x64, monkeypatch, min_count):
    rng = np.random.default_rng(0)
    x, _ = synthetic.clusters(rng, [40] * 40, 5, distance=3.0)
    x[7] = np.nan
    options = {
        "num_components": 60,
        "max_steps": 40,
        "min_count": min_count,
        "valid": np.isfinite(x).all(axis=1),
    }
    monkeypatch.setattr(steps, "TRACKED", 1000)
    expected, told = kmle.fit(jax.random.key(0), x, **options)
    monkeypatch.setattr(steps, "TRACKED", 2)
    got, info = kmle.fit(jax.random.key(0), x, **options)
    np.testing.assert_array_equal(info.labels, told.labels)
    np.testing.assert_array_equal(info.moved, told.moved)
    np.testing.assert_array_equal(info.num_components, told.num_components)
    np.testing.assert_allclose(info.log_likelihood, told.log_likelihood, rtol=1e-9)
    np.testing.assert_array_equal(got.means, expected.means)
    assert len(info.moved) > 8
    assert (np.diff(info.num_components) < 0).any() == (min_count > 2)
    # Late steps look at few components, and compute few costs.
    assert info.evaluated[-1] < 0.5 * told.evaluated[-1]


def test_a_mixture_of_other_labels_is_searched_whole(x64, monkeypatch):
    x, first, _, _ = pair(3, 4, np.float64)
    monkeypatch.setattr(steps, "TRACKED", 2)
    given = samples.gather(jnp.asarray(x), None)
    step = steps.Steps(given, K, 2, covariance.oas)
    labels = np.asarray(whole(x, first, np.ones(len(x), bool))[0].labels)
    # The labels are not those that the mixture was fitted to, so nothing is known.
    state, _ = step((first, jnp.asarray(labels)))
    once = jax.tree.map(np.asarray, state)
    (_, got), row = step(state)
    expected = whole(x, jax.tree.map(jnp.asarray, once[0]), given.used)[0].labels
    np.testing.assert_array_equal(got, expected)
    assert row.moved == np.sum(np.asarray(got) != once[1]) > 0
