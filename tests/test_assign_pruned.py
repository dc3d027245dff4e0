"""The pruned assignment in JAX against the dense argmin in float64."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import synthetic_mixtures as synthetic
from jax.sharding import Mesh, PartitionSpec
from test_assign import COUNTS, check, exact, example

from gladjax import assign, kmle, mixture

# Few programs: compiling them is what takes time.
D, K, N, PLAN = 8, len(COUNTS), 123, (2, 6)
JITTED = jax.jit(assign.pruned_info, static_argnames="chunk")


def device(tree):
    return jax.tree.map(jnp.asarray, tree)


def run(fitted, x, *, plan=PLAN, start=None, limit=None):
    """Labels, costs and report, as NumPy arrays, by one program per shape."""
    n, d = x.shape
    k, dtype = fitted.means.shape[0], fitted.means.dtype
    missing = k * d - fitted.rows.shape[0]  # Unused rows.
    rows = np.pad(fitted.rows, ((0, missing), (0, 0)))
    variances = np.pad(fitted.variances, (0, missing), constant_values=1)
    fitted = mixture.GaussianMixture(
        **{**vars(fitted), "rows": rows, "variances": variances}
    )
    if isinstance(plan, tuple):
        basis = np.asarray(assign.principal_axes(np.nan_to_num(x))[:, : plan[1]], dtype)
        plan = assign.Plan(basis, plan[0])
    found = JITTED(
        device(fitted),
        jnp.asarray(x),
        start=jnp.asarray(np.full(n, -1) if start is None else start, jnp.int32),
        limit=jnp.asarray(np.full(n, np.inf) if limit is None else limit, dtype),
        plan=device(plan),
        chunk=50,
    )
    return jax.tree.map(np.asarray, found)


def between(rng, dtype=np.float32):
    return (3 * rng.normal(size=(N, D))).astype(dtype)


# Against the dense argmin


@pytest.mark.parametrize(
    ("d", "dtype", "plan"),
    [
        (1, np.float64, (1, 1)),
        (8, np.float32, PLAN),
        (8, np.float64, PLAN),
        (40, np.float32, (3, 40)),
    ],
)
def test_labels_are_those_of_the_dense_argmin(d, dtype, plan):
    with jax.enable_x64(dtype == np.float64):
        for seed in range(2):
            rng = np.random.default_rng(seed)
            fitted, x = example(rng, d, dtype=dtype)
            labels, cost, info = run(fitted, x, plan=plan)
            check(labels, cost, exact(fitted, x), dtype)
            assert np.all(info.margin >= -1e-3)
            assert (info.stage, info.rank) == plan


@pytest.mark.parametrize("start", ["the answer", "always wrong", "the dead", "mixed"])
def test_a_guess_changes_no_label(start):
    fitted, x = example(np.random.default_rng(0), D, min_count=2)
    every = exact(fitted, x)
    guess = {
        "the answer": every.argmin(axis=1),
        "always wrong": np.where(np.isfinite(every), every, -1).argmax(axis=1),
        "the dead": np.zeros(len(x), int),
        "mixed": np.arange(len(x)) % (K + 1) - 1,
    }[start]
    assert np.isneginf(fitted.log_weights[0])
    labels, cost, _ = run(fitted, x, start=guess)
    check(labels, cost, every, np.float32)


def test_the_chosen_plan_prunes_and_changes_no_label():
    rng = np.random.default_rng(0)
    k, d = 12, 24
    moments = synthetic.moments(rng, k, d, distance=20.0)
    fitted = mixture.from_moments(*(jnp.asarray(a, np.float32) for a in moments))
    x = moments[1][rng.integers(0, k, 200)] + rng.normal(size=(200, d))
    plan = assign.plan(fitted, np.float32(x))
    assert plan.stage <= plan.basis.shape[1] <= d
    labels, cost, info = run(fitted, np.float32(x), plan=plan)
    check(labels, cost, exact(fitted, x), np.float32)
    assert info.evaluated < 3
    assert info.survivors < 6
    assert np.median(info.margin) > 1


def test_the_margin_is_no_more_than_the_distance_to_the_next_best_cost(x64, rng):
    fitted, x = example(rng, D, dtype=np.float64)
    labels, cost, info = run(fitted, x)
    every = exact(fitted, x)
    every[np.arange(len(x)), labels] = np.inf
    assert np.all(info.margin <= every.min(axis=1) - cost + 1e-6)


# Adversaries


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_where_nothing_can_be_pruned_everything_is_computed(rng, dtype):
    with jax.enable_x64(dtype == np.float64):
        weights, _, covariances = synthetic.moments(rng, 1, D)
        means = 1e-3 * rng.normal(size=(K, D))
        moments = (np.tile(weights, K), means, np.tile(covariances, (K, 1, 1)))
        crowded = mixture.from_moments(*(jnp.asarray(a, dtype) for a in moments))
        x = between(rng, dtype)
        labels, cost, info = run(crowded, x)
        check(labels, cost, exact(crowded, x), dtype, few=0.5)
        assert info.evaluated > K - 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_of_equal_components_the_first_wins(rng, dtype):
    with jax.enable_x64(dtype == np.float64):
        weights, means, covariances = synthetic.moments(rng, K // 2, D)
        twice = [np.concatenate([a, a]) for a in (weights, means, covariances)]
        twins = mixture.from_moments(*(jnp.asarray(a, dtype) for a in twice))
        for start in (-1, K - 1, K // 2):
            labels, _, info = run(twins, between(rng, dtype), start=np.full(N, start))
            assert np.all(labels < K // 2)
            np.testing.assert_allclose(info.margin, 0, atol=1e-3)


def test_the_winner_may_be_the_last_by_its_bound(x64):
    # The leading coordinates speak for all the others, what follows for the last.
    means = np.zeros((K, D))
    means[-1, 0], means[:-1, PLAN[1] :] = 3.0, 9.0
    moments = (np.ones(K), means, np.tile(np.eye(D), (K, 1, 1)))
    fitted = mixture.from_moments(*(jnp.asarray(a) for a in moments))
    plan = assign.Plan(np.eye(D)[:, : PLAN[1]], PLAN[0])
    labels, cost, _ = run(fitted, np.zeros((N, D)), plan=plan)
    assert np.all(labels == K - 1)
    np.testing.assert_allclose(cost, 9 + 2 * np.log(K))


def test_ill_conditioned_marginals_are_lowered_not_trusted(rng):
    # Variances from 1e-5 to 1e3: more than float32 can factor.
    Q = np.stack([np.linalg.qr(rng.normal(size=(D, D)))[0] for _ in range(K)])
    covariances = (Q * np.logspace(-5, 3, D)) @ np.swapaxes(Q, 1, 2)
    moments = (np.ones(K), 10 * rng.normal(size=(K, D)), covariances)
    with jax.enable_x64(True):
        fitted = mixture.from_moments(*(jnp.asarray(a) for a in moments))
    fitted = jax.tree.map(np.asarray, fitted)
    rounded = jax.tree.map(
        lambda a: a.astype(np.float32) if a.dtype == np.float64 else a, fitted
    )
    x = 10 * between(rng)
    labels, _, _ = run(rounded, x)
    every = exact(rounded, x)
    best = every.min(axis=1)
    got = every[np.arange(N), labels]
    assert np.all(got - best <= 2e-4 * np.abs(best))
    basis = assign.principal_axes(x)[:, : PLAN[1]].astype(np.float32)
    low = jax.jit(assign.marginals)(device(rounded), basis)
    y = (np.float64(x) - np.float64(low.centre)) @ np.float64(low.basis)
    e = y[:, None] - np.float64(low.means)[None]
    z = np.einsum("krs,nks->nkr", np.float64(low.factors), e)
    bound = np.sum(z**2, axis=2) + np.float64(low.constants)
    assert np.all(bound <= every + 1e-3 * np.abs(every))


# Corners


def test_a_limit_hides_what_costs_more(x64, rng):
    fitted, x = example(rng, D, dtype=np.float64)
    every = exact(fitted, x)
    best = every.min(axis=1)
    limit = np.where(np.arange(len(x)) % 2 == 0, best + 1, best - 1)
    labels, cost, _ = run(fitted, x, limit=limit)
    expected = np.where(best < limit, every.argmin(axis=1), -1)
    np.testing.assert_array_equal(labels, expected)
    np.testing.assert_allclose(cost, np.minimum(best, limit))


def test_samples_that_are_not_finite_get_no_component(rng):
    fitted, x = example(rng, D)
    expected = run(fitted, x)[0]
    x = x.copy()
    x[3], x[5, 1] = np.nan, np.inf
    labels, cost, _ = run(fitted, x)
    bad = np.isin(np.arange(len(x)), [3, 5])
    np.testing.assert_array_equal(labels, np.where(bad, -1, expected))
    np.testing.assert_array_equal(np.isinf(cost), bad)


def test_without_a_living_component_there_is_no_label():
    fitted, x = example(np.random.default_rng(0), D, min_count=1000)
    labels, cost, _ = run(fitted, x)
    assert np.all(labels == -1)
    assert np.all(np.isposinf(cost))


# Transformations


def test_one_trace_serves_many_mixtures():
    rng = np.random.default_rng(0)
    chex.clear_trace_counter()
    traced = jax.jit(chex.assert_max_traces(assign.pruned, n=1))
    fitted, x = example(rng, D)
    for shift in (0.0, 1.0):
        x = (x + np.float32(shift)).astype(np.float32)
        labels, cost = traced(device(fitted), jnp.asarray(x))
        check(np.asarray(labels), np.asarray(cost), exact(fitted, x), np.float32)


def test_vmap_over_samples_and_mixtures_equals_a_loop():
    one, x = example(np.random.default_rng(0), D)
    other = mixture.GaussianMixture(**{**vars(one), "means": one.means[::-1].copy()})
    groups = x[:24].reshape(2, 12, D)
    both = jax.tree.map(lambda a, b: jnp.stack([a, b]), one, other)
    labels, cost = jax.jit(jax.vmap(assign.pruned))(both, jnp.asarray(groups))
    labels, cost = np.asarray(labels), np.asarray(cost)
    for i, fitted in enumerate((one, other)):
        check(labels[i], cost[i], exact(fitted, groups[i]), np.float32)


def test_sharded_samples_get_the_same_labels():
    fitted, x = example(np.random.default_rng(0), D)
    x = x[:120]
    mesh = Mesh(np.asarray(jax.devices()[:8]), ("samples",))
    spread = jax.shard_map(
        assign.pruned,
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec("samples")),
        out_specs=PartitionSpec("samples"),
        check_vma=False,
    )
    labels, cost = jax.jit(spread)(device(fitted), jnp.asarray(x))
    assert len(labels.sharding.device_set) == 8
    check(np.asarray(labels), np.asarray(cost), exact(fitted, x), np.float32)


def test_a_step_of_kmle_takes_it():
    fitted, x = example(np.random.default_rng(0), D)
    state = kmle.KMLEState(device(fitted), jnp.int32(0))
    step = jax.jit(kmle.step, static_argnames="nearest")
    _, expected = step(state, jnp.asarray(x))
    _, info = step(state, jnp.asarray(x), nearest=assign.pruned)
    np.testing.assert_array_equal(info.labels, expected.labels)
    np.testing.assert_allclose(info.log_likelihood, expected.log_likelihood, 1e-5)


# The choice


@pytest.mark.parametrize("backend", assign.BACKENDS)
def test_every_backend_gives_the_same_labels(backend):
    fitted, x = example(np.random.default_rng(0), D)
    labels, cost = assign.nearest(fitted, x, backend=backend)
    assert isinstance(labels, jax.Array) == (backend == "jax")
    labels, cost = np.asarray(labels), np.asarray(cost)
    check(labels, cost, exact(fitted, x), np.float32)


def test_impossible_choices_are_refused():
    fitted, x = example(np.random.default_rng(0), 8)
    with pytest.raises(ValueError, match="backend"):
        assign.nearest(fitted, x, backend="cuda")
    with pytest.raises(ValueError, match="numba"):
        jax.jit(lambda x: assign.nearest(fitted, x, backend="numba"))(x)
    with pytest.raises((ValueError, TypeError), match="features"):
        assign.pruned(fitted, jnp.asarray(x[:, :5]))
    with pytest.raises(ValueError, match="chunk"):
        assign.pruned(fitted, jnp.asarray(x), chunk=0)
