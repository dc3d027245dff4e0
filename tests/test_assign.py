"""The assignment against the dense argmin in float64, with its certificate."""

import functools
import importlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import synthetic_mixtures as synthetic

from gladjax import assign, devices, mixture

# Counts per component: from singletons and pairs to more samples than features.
COUNTS = [1, 2, 3, 7, 20, 60]
EVERY = jax.jit(assign.distances_of_pairs)


def nearest(*args, **options):
    return tuple(np.asarray(a) for a in assign.nearest(*args, **options))


def nearest_info(*args, **options):
    labels, cost, info = assign.nearest_info(*args, **options)
    return np.asarray(labels), np.asarray(cost), jax.tree.map(np.asarray, info)


def exact(fitted, x):
    """Every cost in float64, (n, k), from the stored arrays of a mixture.

    The rows are taken as they are stored, so that what is compared is the search and
    not the rounding of the mixture.
    """
    rows = np.asarray(fitted.rows, np.float64)
    x, means = np.asarray(x, np.float64), np.asarray(fitted.means, np.float64)
    k, d = means.shape
    every = np.full((len(x), k), np.inf)
    for c in range(k):
        if not np.isfinite(fitted.log_weights[c]):
            continue
        own = rows[fitted.offsets[c] : fitted.offsets[c] + fitted.ranks[c]]
        e = x - means[c]
        if fitted.ranks[c] < d:
            noise, scale = float(fitted.noise[c]), float(fitted.scales[c])
            sigma = noise * np.eye(d) + scale * own.T @ own
            distance = np.einsum("nd,nd->n", e, np.linalg.solve(sigma, e.T).T)
        else:
            distance = np.sum((e @ own.T) ** 2, axis=1)
        constant = float(fitted.log_dets[c]) - 2 * float(fitted.log_weights[c])
        every[:, c] = distance + constant
    return every


def spikes(x, labels, *, min_count=1, dtype=np.float32):
    """A mixture in its compact form, built without the package's own M-step."""
    k, d = int(labels.max()) + 1, x.shape[1]
    weights, means, covariances = oracles.maximize(x, labels, k, min_count=min_count)
    rows, inverses, ranks, scales, noise = [], [], [], [], []
    for c in range(k):
        own, sigma = x[labels == c] - means[c], covariances[c]
        if weights[c] == 0:
            own, sigma = own[:0], np.eye(d)
        s, a = np.linalg.eigvalsh(sigma)[0], 0.0
        if len(own) > d:
            own, a = np.linalg.inv(np.linalg.cholesky(sigma)), np.trace(sigma) / d
        else:
            energy = np.sum(own**2)
            a = (np.trace(sigma) - d * s) / energy if energy > 0 else 0.0
            H = np.linalg.inv(s * np.eye(len(own)) + a * own @ own.T)
            inverses.append(H.ravel())
        rows.append(own)
        ranks.append(len(own))
        scales.append(a)
        noise.append(s)
    with np.errstate(divide="ignore"):
        log_weights = np.log(weights)
    floats = {
        "log_weights": log_weights,
        "means": means,
        "rows": np.concatenate(rows),
        "inverses": np.concatenate([np.zeros(0), *inverses]),
        "scales": np.array(scales),
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
    n = 120
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
    got, cost = nearest(fitted, x[:40])
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
            assert {1, d} <= set(fitted.ranks.tolist())
        labels, cost = nearest(fitted, x)
        check(labels, cost, exact(fitted, x), dtype)


def test_overlapping_components_are_told_apart(x64, rng):
    fitted, x = example(rng, 8, dtype=np.float64, distance=0.5)
    labels, cost = nearest(fitted, x)
    check(labels, cost, exact(fitted, x), np.float64)


# Laws


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("d", [8, 128])
def test_the_certificate_is_nonnegative_and_true(x64, rng, d, dtype):
    fitted, x = example(rng, d, dtype=dtype, distance=1.5)
    labels, cost, info = nearest_info(fitted, x)
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
    expected, expected_cost = nearest(fitted, x)
    for name, start in starts(rng, expected, len(COUNTS)).items():
        labels, cost, info = nearest_info(fitted, x, start=start.astype(np.int32))
        np.testing.assert_array_equal(labels, expected, err_msg=name)
        np.testing.assert_allclose(cost, expected_cost, rtol=1e-4)
        assert np.all(info.margin >= 0)


def test_fewer_costs_than_pairs_are_computed(rng):
    fitted, x = example(rng, 40, distance=8.0)
    _, _, info = nearest_info(fitted, x)
    assert info.evaluated < 0.7 * len(COUNTS)


lower_of_pairs = jax.jit(assign.lower_of_pairs)


@jax.jit
def prepared_and_lower(given, axes, x):
    bounds = assign.prepare(given, axes)
    return bounds, assign.lower(bounds, assign.monomials(axes, x))


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("offset", [0.0, 100.0])
@pytest.mark.parametrize("ranks", [(4, 16), (16, 40), (40, 40)])
def test_bounds_never_exceed_the_distance(rng, ranks, scale, offset):
    # In float32, against float64: the margin covers all rounding.
    fitted, x = example(rng, 40)
    x = (scale * (x + offset)).astype(np.float32)
    given = mixture.rescaled(fitted, 0)
    given = jax.tree.map(np.asarray, given)
    means = (scale * (given.means.astype(np.float64) + offset)).astype(np.float32)
    few = given.ranks < 40
    owner = np.repeat(np.arange(len(few)), given.ranks)
    powers = np.where(few, scale, 1 / scale)[owner][:, None].astype(np.float32)
    moved = mixture.GaussianMixture(
        log_weights=given.log_weights,
        means=means,
        rows=given.rows * powers,
        inverses=(given.inverses / scale**2).astype(np.float32),
        offsets=given.offsets,
        ranks=given.ranks,
        scales=np.where(few, given.scales, given.scales * scale**2).astype(np.float32),
        noise=(given.noise * scale**2).astype(np.float32),
        log_dets=np.zeros_like(given.log_dets),
    )
    axes = assign.coordinates(jnp.asarray(x), ranks=ranks)
    bounds, low = prepared_and_lower(moved, axes, jnp.asarray(x))
    plain = moved.__class__(**{**moved.__dict__, "log_weights": 0 * moved.log_weights})
    full = exact(plain, x).T
    assert np.all(np.asarray(low, np.float64) <= full)
    if bounds.fine is not None:
        component, owner = jnp.indices(full.shape, jnp.int32).reshape(2, -1)
        finer = lower_of_pairs(bounds.fine, jnp.asarray(x), owner, component)
        coarse, low = low, np.asarray(finer).reshape(full.shape)
        assert np.all(low.astype(np.float64) <= full)
        assert np.mean(low >= coarse) > 0.9
        left_out = jnp.full(3, -1, jnp.int32)
        none = lower_of_pairs(bounds.fine, jnp.asarray(x), owner[:3], left_out)
        assert np.all(np.isinf(none))
    if ranks[1] == 40 and scale == 1 and offset == 0:  # There it is the distance.
        home = np.argmin(full, axis=0)
        own = np.arange(len(x))
        gap = full[home, own] - np.asarray(low)[home, own]
        assert np.median(gap / (1 + full[home, own])) < 0.02


def test_open_pairs_are_all_listed_component_by_component(rng):
    mask = rng.random((7, 2 * assign.GROUP)) < 0.1
    k, c = np.nonzero(mask)
    owner, component = assign.listed(jnp.asarray(mask), 256)
    np.testing.assert_array_equal(component[: len(k)], k)
    np.testing.assert_array_equal(owner[: len(c)], c)
    assert np.all(np.asarray(component)[len(k) :] == -1)
    first = assign.listed(jnp.asarray(mask), 5)
    np.testing.assert_array_equal(first[1], k[:5])


@pytest.mark.parametrize("first", [1, 8])
@pytest.mark.parametrize("ranks", [(6, 6), (6, 20)])
def test_costs_within_reach_are_all_computed(x64, rng, monkeypatch, ranks, first):
    search = importlib.import_module("gladjax.assign.search")
    monkeypatch.setattr(devices, "CPU", devices.CPU._replace(listed=first))
    monkeypatch.setattr(search, "MOST", first)
    monkeypatch.setattr(search, "GROUPS", 4)
    fitted, x = example(rng, 40, dtype=np.float64, distance=1.0)
    bounds = assign.prepare(fitted, assign.coordinates(x, ranks=ranks))
    fixed = assign.constants(fitted)[:, None]
    within = jax.jit(functools.partial(assign.search, reach=30.0))
    found = within(fitted, bounds, jnp.asarray(x), fixed)
    every = exact(fitted, x).T
    near = every <= every.min(axis=0) + 30 - 1e-6
    np.testing.assert_allclose(np.asarray(found.exact)[near], every[near], rtol=1e-8)
    known = np.isfinite(np.asarray(found.exact))
    np.testing.assert_allclose(np.asarray(found.exact)[known], every[known], rtol=1e-8)
    assert int(found.evaluated) == known.sum()
    assert np.all(np.asarray(found.low)[known] == np.inf)


@pytest.mark.parametrize("ranks", [(3, 3), (3, 12), (40, 40)])
def test_the_lowest_pairs_come_first(x64, rng, monkeypatch, ranks):
    # Whatever is listed first and how, labels and costs are those of all the costs.
    search = importlib.import_module("gladjax.assign.search")
    fitted, x = example(rng, 40, dtype=np.float64, distance=2.0)
    x = jnp.asarray(np.concatenate([x, np.full((1, 40), np.nan)]))
    bounds = assign.prepare(fitted, assign.coordinates(x, ranks=ranks))
    fixed, every = assign.constants(fitted)[:, None], exact(fitted, x[:-1])
    guess = jnp.asarray(rng.integers(-1, every.shape[1], len(x)), jnp.int32)
    computed = []
    for first, groups in [(1, 2), (1, 64), (8, 3)]:
        monkeypatch.setattr(devices, "CPU", devices.CPU._replace(listed=first))
        monkeypatch.setattr(search, "MOST", first)
        monkeypatch.setattr(search, "GROUPS", groups)
        for some in (None, guess):
            found = assign.search(fitted, bounds, x, fixed, guess=some)
            np.testing.assert_array_equal(found.label[:-1], every.argmin(axis=1))
            np.testing.assert_allclose(found.best[:-1], every.min(axis=1), rtol=1e-9)
            assert int(found.label[-1]) == -1
            low = np.minimum(found.low, found.exact)[:, :-1]
            assert np.all(low >= every.min(axis=1) - 1e-6)
            computed.append(int(found.evaluated))
    assert all(len(x) - 1 <= count < 0.8 * every.size for count in computed)
    if ranks == (40, 40):  # There the least bound is the least cost.
        assert computed[0] < 1.5 * len(x)


def test_what_overflows_bounds_no_pair(rng):
    # Nor does a component without factors; a pair that is left out is infinite.
    fitted, x = example(rng, 40)
    axes = assign.coordinates(jnp.asarray(x), ranks=(4, 16))
    fine = assign.prepare(fitted, axes).fine
    assert fine is not None
    fine = fine._replace(keep=fine.keep.at[0].set(0))
    far = jnp.asarray(np.concatenate([x[:2], np.full((1, 40), 1e30, np.float32)]))
    owner = jnp.array([0, 1, 2, 0], jnp.int32)
    component = jnp.array([0, 1, 1, -1], jnp.int32)
    low = np.asarray(assign.lower_of_pairs(fine, far, owner, component))
    assert low[0] == 0
    assert 0 < low[1] < np.inf
    assert not np.isnan(low[2])
    assert low[3] == np.inf


def test_a_limit_leaves_out_what_is_above(x64, rng):
    fitted, x = example(rng, 40, dtype=np.float64)
    labels, cost = nearest(fitted, x)
    limit = np.where(np.arange(len(x)) % 2, cost - 1e-3, cost + 1e-3)
    got, least = nearest(fitted, x, limit=limit)
    odd = np.arange(len(x)) % 2 == 1
    assert np.all(np.asarray(got)[odd] == -1)
    np.testing.assert_array_equal(np.asarray(least)[odd], limit[odd])
    np.testing.assert_array_equal(np.asarray(got)[~odd], np.asarray(labels)[~odd])


def test_slopes_are_the_gradient_of_the_density(x64, rng):
    fitted, x = example(rng, 40, dtype=np.float64, distance=1.0)
    costs = exact(fitted, x).T
    shares = jax.nn.softmax(-0.5 * jnp.asarray(costs), axis=0)
    got = assign.slopes(fitted, jnp.asarray(x), shares)
    sigmas = np.asarray(mixture.covariances(fitted))
    expected = np.zeros_like(x)
    for c, sigma in enumerate(sigmas):
        pull = np.linalg.solve(sigma, (x - fitted.means[c]).T).T
        expected -= np.asarray(shares)[c][:, None] * pull
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-8)


def test_samples_in_any_order_and_number(rng):
    fitted, x = example(rng, 8)
    labels, cost = nearest(fitted, x)
    order = rng.permutation(len(x))[: len(x) // 2]
    again, again_cost = nearest(fitted, x[order])
    np.testing.assert_array_equal(again, labels[order])
    np.testing.assert_allclose(again_cost, cost[order], rtol=1e-4)


# Corners


def test_dead_components_win_nothing(rng):
    fitted, x = example(rng, 8, min_count=7)
    labels, cost = nearest(fitted, x)
    assert set(np.unique(labels)) <= {3, 4, 5}
    check(labels, cost, exact(fitted, x), np.float32)


def test_a_single_component_wins_everything(x64, rng):
    moments = synthetic.moments(rng, 1, 8)
    single = mixture.from_moments(*(jnp.asarray(m) for m in moments))
    x = rng.normal(size=(10, 8))
    labels, cost, info = nearest_info(single, x)
    assert not np.any(labels)
    np.testing.assert_allclose(cost, oracles.all_costs(x, moments)[:, 0], rtol=1e-9)
    assert np.all(info.margin == np.inf)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_of_equal_components_the_first_wins(x64, rng, dtype):
    weights, means, covariances = synthetic.moments(rng, 2, 8)
    twice = [np.concatenate([a, a]) for a in (weights, means, covariances)]
    twins = mixture.from_moments(*(jnp.asarray(a, dtype) for a in twice))
    x = rng.normal(size=(40, 8)).astype(dtype)
    for start in (None, np.full(40, 3, np.int32), np.full(40, 2, np.int32)):
        labels, _, info = nearest_info(twins, x, start=start)
        assert np.all(labels < 2)
        np.testing.assert_allclose(info.margin, 0, atol=1e-3)


def test_more_candidates_than_are_kept_are_all_looked_at(x64, rng):
    k = 120  # All of them close; a list holds far fewer at first.
    covariances = np.tile(np.eye(4), (k, 1, 1))
    crowd = [np.ones(k), 1e-3 * rng.normal(size=(k, 4)), covariances]
    crowded = mixture.from_moments(*(jnp.asarray(a) for a in crowd))
    x = rng.normal(size=(20, 4))
    labels, cost = nearest(crowded, x)
    check(labels, cost, exact(crowded, x), np.float64)


@pytest.mark.parametrize("chunk", [1, 17, 64])
def test_chunks_change_no_answer(rng, monkeypatch, chunk):
    fitted, x = example(rng, 8)
    expected, _ = nearest(fitted, x)
    monkeypatch.setattr(devices, "CPU", devices.CPU._replace(chunk=chunk))
    jax.clear_caches()
    labels, _, info = nearest_info(fitted, x)
    jax.clear_caches()
    np.testing.assert_array_equal(labels, expected)
    assert info.margin.shape == (len(x),)
    assert np.all(np.asarray(info.margin) >= 0)


def test_samples_that_are_not_finite_have_no_label(rng):
    fitted, x = example(rng, 8)
    expected = np.asarray(nearest(fitted, x)[0])
    x[3, 2], x[7, 0] = np.nan, np.inf
    labels, cost = nearest(fitted, x)
    sound = ~np.isin(np.arange(len(x)), [3, 7])
    assert np.all(np.asarray(labels)[~sound] == -1)
    assert np.all(np.isposinf(np.asarray(cost)[~sound]))
    np.testing.assert_array_equal(np.asarray(labels)[sound], expected[sound])


def test_samples_far_away_and_components_far_apart(x64, rng):
    moments = list(synthetic.moments(rng, 4, 8))
    moments[1] = moments[1] + 1e4
    far = mixture.from_moments(*(jnp.asarray(m, np.float32) for m in moments))
    x = (1e4 + 3 * rng.normal(size=(50, 8))).astype(np.float32)
    far = jax.tree.map(np.asarray, far)
    labels, _ = nearest(far, x)
    every = exact(far, x)
    got = every[np.arange(50), labels]
    assert np.all(got - every.min(axis=1) <= 0.05)


def test_memory_mapped_samples_are_read(rng, tmp_path):
    fitted, x = example(rng, 8)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    labels, _ = nearest(fitted, mapped)
    np.testing.assert_array_equal(labels, nearest(fitted, x)[0])


# Transformations


def test_inside_a_trace_the_answer_is_the_same(rng):
    fitted, x = example(rng, 8)
    chex.clear_trace_counter()
    traced = jax.jit(chex.assert_max_traces(assign.nearest, n=1))
    as_jax = jax.tree.map(jnp.asarray, fitted)
    expected, expected_cost = nearest(fitted, x)
    for _ in range(2):
        labels, cost = traced(as_jax, jnp.asarray(x))
        np.testing.assert_array_equal(labels, expected)
        np.testing.assert_allclose(cost, expected_cost, rtol=1e-4)


def test_vmap_over_samples_equals_a_loop(rng):
    fitted, x = example(rng, 8)
    as_jax = jax.tree.map(jnp.asarray, fitted)
    groups = jnp.asarray(x[:12]).reshape(3, 4, 8)
    many, _ = jax.vmap(assign.nearest, in_axes=(None, 0))(as_jax, groups)
    np.testing.assert_array_equal(many.ravel(), nearest(fitted, x[:12])[0])


# Refusals


def test_features_of_another_dimension_are_refused(rng):
    fitted, x = example(rng, 8)
    with pytest.raises((ValueError, TypeError)):
        nearest(fitted, x[:, :5])
