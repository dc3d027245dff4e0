"""The pruned assignment against the dense argmin in float64, with its certificate."""

import importlib

import chex
import jax
import jax.numpy as jnp
import numba
import numpy as np
import oracles
import pytest
import synthetic_mixtures as synthetic

from gladjax import assign, mixture
from gladjax.kernels import search

INTERPRETED = numba.config.DISABLE_JIT
# Counts per component: from singletons and pairs to more samples than features.
COUNTS = [1, 2, 3, 7, 20, 60]


def exact(fitted, x):
    """Every cost in float64, (n, k), from the stored arrays of a mixture.

    The rows are taken as they are stored, so that what is compared is the search and
    not the rounding of the mixture.
    """
    rows, variances = (
        np.asarray(a, np.float64) for a in (fitted.rows, fitted.variances)
    )
    x, means = np.asarray(x, np.float64), np.asarray(fitted.means, np.float64)
    k, d = means.shape
    every = np.full((len(x), k), np.inf)
    for c in range(k):
        if not np.isfinite(fitted.log_weights[c]):
            continue
        own = slice(fitted.offsets[c], fitted.offsets[c] + fitted.ranks[c])
        e = x - means[c]
        y = e @ rows[own].T
        distance = np.sum(y**2, axis=1)
        if fitted.ranks[c] < d:
            left = e - (y * variances[own]) @ rows[own]
            distance += np.sum(left**2, axis=1) / float(fitted.noise[c])
        constant = float(fitted.log_dets[c]) - 2 * float(fitted.log_weights[c])
        every[:, c] = distance + constant
    return every


def spikes(x, labels, *, min_count=1, dtype=np.float32):
    """A mixture in its compact form, built without the package's own M-step."""
    k, d = int(labels.max()) + 1, x.shape[1]
    weights, means, covariances = oracles.maximize(x, labels, k, min_count=min_count)
    rows, variances, ranks, noise = [], [], [], []
    for c in range(k):
        n = int(np.sum(labels == c))
        values, vectors = np.linalg.eigh(covariances[c])
        rank = 0 if weights[c] == 0 else d if n > d else n - 1
        values, vectors = values[::-1][:rank], vectors[:, ::-1][:, :rank]
        rows.append(vectors.T / np.sqrt(values)[:, None])
        variances.append(values)
        ranks.append(rank)
        noise.append(np.linalg.eigvalsh(covariances[c])[0])
    with np.errstate(divide="ignore"):
        log_weights = np.log(weights)
    floats = {
        "log_weights": log_weights,
        "means": means,
        "rows": np.concatenate(rows),
        "variances": np.concatenate(variances),
        "noise": np.array(noise),
        "log_dets": np.linalg.slogdet(covariances)[1],
    }
    return mixture.GaussianMixture(
        **{name: np.ascontiguousarray(a, dtype) for name, a in floats.items()},
        offsets=(np.cumsum(ranks) - ranks).astype(np.int32),
        ranks=np.array(ranks, np.int32),
    )


def example(rng, d, *, dtype=np.float32, min_count=1, distance=4.0):
    """A mixture of mixed ranks, and samples near and between its components."""
    x, labels = synthetic.clusters(rng, COUNTS, d, distance=distance)
    fitted = spikes(x, labels, min_count=min_count, dtype=dtype)
    n = 30 if INTERPRETED else 120
    between = x[rng.integers(0, len(x), n // 2)] + x[rng.integers(0, len(x), n // 2)]
    return fitted, np.concatenate([x[: n // 2], 0.5 * between, 9 * x[:3]]).astype(dtype)


def check(labels, cost, every, dtype, *, few=0.02):
    """The labels are the argmin; where they are not, the two costs tie by rounding."""
    best = every.min(axis=1)
    got = every[np.arange(len(every)), labels]
    rounding = (2e-4 if dtype == np.float32 else 1e-9) * (1 + np.abs(best))
    assert np.all(got - best <= rounding)
    ties = int(np.sum(labels != np.argmin(every, axis=1)))
    assert ties <= (few * len(every) if dtype == np.float32 else 0)
    assert np.all(np.abs(cost - got) <= rounding)


# Against the paper


def test_labels_and_costs_match_the_twin(x64, rng):
    x, labels = synthetic.clusters(rng, COUNTS, 8)
    moments = oracles.maximize(x, labels, len(COUNTS), min_count=1)
    fitted = spikes(x, labels, dtype=np.float64)
    got, cost = assign.nearest(fitted, x[:40])
    expected, expected_cost = oracles.assign(x[:40], moments)
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_allclose(cost, expected_cost, rtol=1e-8)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("d", [1, 8, 40, 128, 200])
def test_labels_are_those_of_the_dense_argmin(x64, d, dtype):
    for seed in range(3):
        fitted, x = example(np.random.default_rng(seed), d, dtype=dtype)
        if d == 200:
            assert max(fitted.ranks) < d
        if d == 40:
            assert {0, d} <= set(fitted.ranks.tolist())
        labels, cost = assign.nearest(fitted, x)
        check(labels, cost, exact(fitted, x), dtype)


def test_overlapping_components_are_told_apart(x64, rng):
    fitted, x = example(rng, 8, dtype=np.float64, distance=0.5)
    labels, cost = assign.nearest(fitted, x)
    check(labels, cost, exact(fitted, x), np.float64)


# Laws


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("d", [8, 128])
def test_the_certificate_is_nonnegative_and_true(x64, rng, d, dtype):
    fitted, x = example(rng, d, dtype=dtype, distance=1.5)
    labels, cost, info = assign.nearest_info(fitted, x)
    every = exact(fitted, x)
    assert np.all(info.margin >= 0)
    others = every.copy()
    others[np.arange(len(x)), labels] = np.inf
    rounding = (2e-4 if dtype == np.float32 else 1e-9) * (1 + np.abs(cost))
    # Nobody else is nearer than the margin says.
    assert np.all(others.min(axis=1) - cost >= info.margin - rounding)
    assert np.any(info.margin > 0)
    assert info.evaluated >= 1
    assert 0 <= info.survivors <= len(COUNTS)


def starts(rng, labels, k):
    return {
        "right": labels,
        "none": np.full(len(labels), -1),
        "wrong": (labels + 1) % k,
        "random": rng.integers(-1, k, len(labels)),
        "dead": np.zeros(len(labels), int),
    }


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_start_changes_no_answer(x64, rng, dtype):
    fitted, x = example(rng, 40, dtype=dtype, min_count=2)  # Component 0 is dead.
    expected, expected_cost = assign.nearest(fitted, x)
    for name, start in starts(rng, expected, len(COUNTS)).items():
        labels, cost, info = assign.nearest_info(
            fitted, x, start=start.astype(np.int32)
        )
        np.testing.assert_array_equal(labels, expected, err_msg=name)
        np.testing.assert_allclose(cost, expected_cost, rtol=1e-4)
        assert np.all(info.margin >= 0)


def test_fewer_costs_than_pairs_are_computed(rng):
    fitted, x = example(rng, 40, distance=8.0)
    _, _, info = assign.nearest_info(fitted, x)
    assert info.evaluated < 0.7 * len(COUNTS)


def test_bounds_never_exceed_the_full_distance(x64, rng):
    fitted, x = example(rng, 40, dtype=np.float64)
    fitted = jax.tree.map(np.asarray, fitted)
    full = exact(fitted, x)
    low = assign.bounds(fitted, assign.principal_axes(x), rank=16)
    y = assign.project(low, x)
    triangle = np.tril_indices(16)
    for c in range(len(COUNTS)):
        T = np.zeros((16, 16))
        T[triangle] = low.rows[c]
        bound = np.sum(((y - low.means[c]) @ T.T) ** 2, axis=1) + low.constants[c]
        assert np.all(bound <= full[:, c] + 1e-9 * (1 + np.abs(full[:, c])))


def test_samples_in_any_order_and_number(rng):
    fitted, x = example(rng, 8)
    labels, cost = assign.nearest(fitted, x)
    order = rng.permutation(len(x))[: len(x) // 2]
    again, again_cost = assign.nearest(fitted, x[order])
    np.testing.assert_array_equal(again, labels[order])
    np.testing.assert_allclose(again_cost, cost[order], rtol=1e-4)


def test_the_dense_form_agrees(x64, rng, variant):
    fitted, x = example(rng, 8, dtype=np.float64)
    labels, cost = variant(assign.dense)(fitted, jnp.asarray(x))
    check(np.asarray(labels), np.asarray(cost), exact(fitted, x), np.float64)


@pytest.mark.parametrize(("few", "k"), [(1, 1), (3, 3), (4, 50)])
def test_the_nearest_means_are_those_of_a_sort(rng, few, k):
    values = rng.integers(0, 9, size=(200, k)).astype(np.float32)  # Many are equal.
    values[rng.random(values.shape) < 0.1] = np.inf
    found = search.least(values, few, 16)
    expected = np.argsort(values, axis=1, kind="stable")[:, :few]
    np.testing.assert_array_equal(found, expected)


# Corners


def test_dead_components_win_nothing(rng):
    fitted, x = example(rng, 8, min_count=7)
    labels, cost = assign.nearest(fitted, x)
    assert set(np.unique(labels)) <= {3, 4, 5}
    check(labels, cost, exact(fitted, x), np.float32)


def test_a_single_component_wins_everything(x64, rng):
    moments = synthetic.moments(rng, 1, 8)
    single = mixture.from_moments(*(jnp.asarray(m) for m in moments))
    x = rng.normal(size=(10, 8))
    labels, cost, info = assign.nearest_info(single, x)
    assert not np.any(labels)
    np.testing.assert_allclose(cost, oracles.all_costs(x, moments)[:, 0], rtol=1e-9)
    assert np.all(info.margin == np.inf)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_of_equal_components_the_first_wins(x64, rng, dtype):
    weights, means, covariances = synthetic.moments(rng, 2, 8)
    twice = [np.concatenate([a, a]) for a in (weights, means, covariances)]
    twins = mixture.from_moments(*(jnp.asarray(a, dtype) for a in twice))
    x = rng.normal(size=(40, 8)).astype(dtype)
    for start in (None, np.full(40, 3), np.full(40, 2)):
        labels, _, info = assign.nearest_info(twins, x, start=start)
        assert np.all(labels < 2)
        np.testing.assert_allclose(info.margin, 0, atol=1e-3)


def test_more_candidates_than_are_kept_are_all_looked_at(x64, rng):
    k = 120  # All of them close; a list holds far fewer at first.
    covariances = np.tile(np.eye(4), (k, 1, 1))
    crowd = [np.ones(k), 1e-3 * rng.normal(size=(k, 4)), covariances]
    crowded = mixture.from_moments(*(jnp.asarray(a) for a in crowd))
    x = rng.normal(size=(20, 4))
    labels, cost = assign.nearest(crowded, x)
    check(labels, cost, exact(crowded, x), np.float64)


def test_more_samples_than_a_chunk(rng, monkeypatch):
    fitted, x = example(rng, 8)
    expected, _ = assign.nearest(fitted, x)
    # The function has the module's name; the module is reached by its path only.
    module = importlib.import_module("gladjax.assign.nearest")
    monkeypatch.setattr(module, "CHUNK", 17)
    labels, _, info = assign.nearest_info(fitted, x)
    np.testing.assert_array_equal(labels, expected)
    assert info.margin.shape == (len(x),)


def test_samples_far_away_and_components_far_apart(x64, rng):
    moments = list(synthetic.moments(rng, 4, 8))
    moments[1] = moments[1] + 1e4
    far = mixture.from_moments(*(jnp.asarray(m, np.float32) for m in moments))
    x = (1e4 + 3 * rng.normal(size=(50, 8))).astype(np.float32)
    far = jax.tree.map(np.asarray, far)
    labels, _ = assign.nearest(far, x)
    every = exact(far, x)
    got = every[np.arange(50), labels]
    assert np.all(got - every.min(axis=1) <= 0.05)


def test_memory_mapped_samples_are_read(rng, tmp_path):
    fitted, x = example(rng, 8)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    labels, _ = assign.nearest(fitted, mapped)
    np.testing.assert_array_equal(labels, assign.nearest(fitted, x)[0])


# Transformations


def test_inside_a_trace_the_answer_is_the_same(rng):
    fitted, x = example(rng, 8)
    chex.clear_trace_counter()
    traced = jax.jit(chex.assert_max_traces(assign.nearest, n=1))
    as_jax = jax.tree.map(jnp.asarray, fitted)
    expected, expected_cost = assign.nearest(fitted, x)
    for _ in range(2):
        labels, cost = traced(as_jax, jnp.asarray(x))
        np.testing.assert_array_equal(labels, expected)
        np.testing.assert_allclose(cost, expected_cost, rtol=1e-4)


def test_vmap_over_samples_equals_a_loop(rng):
    fitted, x = example(rng, 8)
    as_jax = jax.tree.map(jnp.asarray, fitted)
    groups = jnp.asarray(x[:12]).reshape(3, 4, 8)
    many, _ = jax.vmap(assign.nearest, in_axes=(None, 0))(as_jax, groups)
    np.testing.assert_array_equal(many.ravel(), assign.nearest(fitted, x[:12])[0])


# Refusals


def test_features_of_another_dimension_are_refused(rng):
    fitted, x = example(rng, 8)
    with pytest.raises((ValueError, TypeError)):
        assign.nearest(fitted, x[:, :5])
