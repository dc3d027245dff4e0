"""The M-step, jitted and on the host, against the paper's equations."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import synthetic_mixtures as synthetic

from gladjax import covariance, estimation, factors, mixture

# Many samples per component; around the number of features; fewer than features.
SHAPES = {
    "many": ([30, 40, 50], 6),
    "mixed": ([1, 2, 9, 12, 13, 40], 12),
    "few": ([3, 8, 11, 20], 24),
}
MAXIMIZE = jax.jit(
    estimation.maximize,
    static_argnames=("num_components", "room", "min_count", "shrinkage"),
)


def streamed(x, labels, k, **options):
    floor = estimation.floor_of(x, labels >= 0)
    return estimation.maximize_streamed(x, labels, k, floor=floor, **options)


def in_a_trace(x, labels, k, **options):
    return MAXIMIZE(jnp.asarray(x), jnp.asarray(labels), k, **options)


@pytest.fixture(params=[streamed, in_a_trace], ids=["streamed", "jit"])
def maximize(request):
    return request.param


def example(rng, name, dtype=np.float64):
    counts, d = SHAPES[name]
    x, labels = synthetic.clusters(rng, counts, d)
    return x.astype(dtype), labels.astype(np.int32), len(counts)


def check(fitted, moments, atol):
    """Weights of all, means and covariances of the living components."""
    weights, means, covariances = moments
    alive = weights > 0
    np.testing.assert_allclose(np.exp(fitted.log_weights), weights, atol=1e-6)
    np.testing.assert_array_equal(np.isfinite(fitted.log_weights), alive)
    scale = np.abs(means[alive]).max()
    np.testing.assert_allclose(
        np.asarray(fitted.means)[alive], means[alive], rtol=0, atol=atol * scale
    )
    dense = synthetic.dense(fitted)
    for c in np.flatnonzero(alive):
        scale = np.abs(covariances[c]).max()
        np.testing.assert_allclose(
            dense[c], covariances[c], rtol=0, atol=atol * scale, err_msg=f"{c}"
        )
        log_det = np.linalg.slogdet(covariances[c])[1]
        error = 10 * atol * max(1.0, abs(log_det))
        assert float(fitted.log_dets[c]) == pytest.approx(log_det, abs=error)


# Against the paper


@pytest.mark.parametrize(
    ("name", "min_count"),
    [("many", 2), ("mixed", 1), ("mixed", 2), ("mixed", 10), ("few", 2)],
)
def test_the_m_step_matches_the_paper(x64, maximize, name, min_count):
    x, labels, k = example(np.random.default_rng(0), name)
    labels[::7] = -1
    expected = oracles.maximize(x, labels, k, min_count=min_count)
    check(maximize(x, labels, k, min_count=min_count), expected, 1e-10)


def test_the_m_step_in_float32_is_exact_to_rounding(rng, maximize):
    x, labels, k = example(rng, "mixed", np.float32)
    expected = oracles.maximize(x, labels, k)
    check(maximize(x, labels, k), expected, 1e-5)


def test_without_shrinkage_it_is_maximum_likelihood(x64, rng, maximize):
    x, labels, k = example(rng, "many")
    fitted = maximize(x, labels, k, shrinkage=covariance.no_shrinkage)
    expected = oracles.maximize(x, labels, k, rho=0.0)
    check(fitted, expected, 1e-10)
    for c in range(k):  # The floor beside the scatter is a millionth.
        S = oracles.scatter(x[labels == c])[1]
        np.testing.assert_allclose(expected[2][c], S, atol=1e-5 * np.abs(S).max())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_floor_matches_the_paper(rng, dtype):
    x = (1e3 + rng.normal(size=(50, 4))).astype(dtype)
    valid = rng.random(50) < 0.7
    with jax.enable_x64(dtype == np.float64):
        floor = float(estimation.floor_of(x, valid))
    rel = 1e-5 if dtype == np.float32 else 1e-7
    assert floor == pytest.approx(oracles.floor_variance(x[valid]), rel=rel)


# Laws


def test_weights_are_shares_of_what_survives(rng, maximize):
    x, labels, k = example(rng, "mixed", np.float32)
    fitted = maximize(x, labels, k)
    weights = np.exp(np.asarray(fitted.log_weights, np.float64))
    assert weights[0] == 0
    np.testing.assert_allclose(weights[1:], np.array([2, 9, 12, 13, 40]) / 76, 1e-6)


def test_storage_grows_with_samples_not_with_components(maximize):
    x, labels, k = example(np.random.default_rng(0), "few", np.float32)
    fitted = maximize(x, labels, k)
    assert np.asarray(fitted.ranks).tolist() == [3, 8, 11, 20]
    assert fitted.rows.shape[0] <= len(x)


def test_labels_say_who_belongs_to_whom_and_nothing_else(x64, rng, maximize):
    x, labels, k = example(rng, "mixed")
    order, rename = rng.permutation(len(x)), rng.permutation(k).astype(np.int32)
    one = maximize(x, labels, k)
    other = maximize(x[order], rename[labels[order]], k)
    np.testing.assert_allclose(other.means[rename], one.means, atol=1e-12)
    np.testing.assert_allclose(other.log_dets[rename], one.log_dets, atol=1e-10)


def leaves_equal(a, b):
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("largest", [1, 7, 8, 9, 24, 672])
def test_the_ladder_holds_every_size_with_little_waste(largest):
    sizes = factors.ladder(largest)
    assert sizes[-1] == largest
    assert np.all(np.diff(sizes) > 0)
    for n in range(65, largest + 1):  # Small ones cost little, padded or not.
        assert next(size for size in sizes if size >= n) <= 2 * n


# Corners


@pytest.mark.parametrize("count", [3, 7, 11])  # Below and above d = 6.
def test_copies_in_float32_get_the_floor(maximize, count):
    # Values whose sum of copies rounds: their mean need not be the value.
    rng = np.random.default_rng(0)
    copy = np.linspace(100.1, 300.7, 6)
    x = np.concatenate([np.tile(copy, (count, 1)), copy + rng.normal(size=(30, 6))])
    x = x.astype(np.float32)
    labels = np.repeat([0, 1], [count, 30]).astype(np.int32)
    fitted = maximize(x, labels, 2)
    floor = oracles.floor_variance(x)
    assert float(fitted.log_dets[0]) == pytest.approx(6 * np.log(floor), abs=1e-3)
    np.testing.assert_allclose(np.asarray(fitted.means)[0], copy, rtol=1e-6)


def test_data_that_are_all_equal_have_a_finite_density(maximize):
    x = np.full((20, 6), 3.0, np.float32)
    fitted = maximize(x, np.repeat([0, 1], 10).astype(np.int32), 2)
    log_prob = jax.jit(mixture.log_prob)
    assert np.isfinite(log_prob(jax.tree.map(jnp.asarray, fitted), jnp.asarray(x[0])))


def test_one_dimension(x64, rng, maximize):
    x, labels = synthetic.clusters(rng, [1, 2, 30], 1)
    labels = labels.astype(np.int32)
    check(maximize(x, labels, 3), oracles.maximize(x, labels, 3), 1e-10)


def test_constant_features(x64, rng, maximize):
    x, labels, k = example(rng, "many")
    x[:, 1] = 7.0
    check(maximize(x, labels, k), oracles.maximize(x, labels, k), 1e-10)


def test_samples_that_do_not_count_may_be_anything(rng, maximize):
    x, labels, k = example(rng, "mixed", np.float32)
    labels[::5] = -1
    expected = maximize(x, labels, k)
    x[::5] = np.nan
    leaves_equal(maximize(x, labels, k), expected)


def test_nobody_survives(maximize):
    x, labels, k = example(np.random.default_rng(0), "mixed", np.float32)
    fitted = maximize(x, labels, k, min_count=1000)
    assert np.all(np.isneginf(fitted.log_weights))
    assert not np.any(fitted.ranks)


@pytest.mark.parametrize("capacity", [1, 40, 1000])
def test_groups_of_components_join_to_the_same(
    x64, rng, tmp_path, monkeypatch, capacity
):
    x, labels, k = example(rng, "mixed")
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    monkeypatch.setattr(estimation, "STREAMED", 4 * x.shape[1] * capacity)
    check(streamed(mapped, labels, k), oracles.maximize(x, labels, k), 1e-10)


@pytest.mark.parametrize("name", ["many", "mixed", "few"])
def test_weighted_pairs_are_weighted_sums(x64, rng, name):
    x, _, k = example(rng, name)
    owner = rng.integers(0, len(x), 3 * len(x))
    component = rng.integers(-1, k, len(owner))
    weights = rng.uniform(0.1, 1, len(owner))
    fitted = MAXIMIZE(
        jnp.asarray(x),
        jnp.asarray(component, jnp.int32),
        k,
        owner=jnp.asarray(owner, jnp.int32),
        weights=jnp.asarray(weights),
    )
    floor = oracles.floor_variance(x[np.unique(owner[component >= 0])])
    totals = np.bincount(component[component >= 0], weights[component >= 0], k)
    dense = synthetic.dense(fitted)
    np.testing.assert_allclose(np.exp(fitted.log_weights), totals / totals.sum())
    for c in range(k):
        own, w = x[owner[component == c]], weights[component == c]
        mean = w @ own / w.sum()
        S = (w[:, None] * (own - mean)).T @ (own - mean) / w.sum()
        sigma = oracles.shrunk(S, w.sum(), floor)
        np.testing.assert_allclose(fitted.means[c], mean, atol=1e-12)
        np.testing.assert_allclose(dense[c], sigma, atol=1e-11 * np.abs(sigma).max())


# Transformations


def test_vmap_equals_a_loop(x64):
    x, labels, k = example(np.random.default_rng(0), "mixed")
    every = np.stack([labels, np.roll(labels, 3), np.where(labels == 2, -1, labels)])
    function = partial(estimation.maximize, jnp.asarray(x), num_components=k)
    many = jax.jit(jax.vmap(function))(jnp.asarray(every))
    for i, own in enumerate(every):
        one = jax.tree.map(lambda leaf, i=i: leaf[i], many)
        check(one, oracles.maximize(x, own, k), 1e-10)


def test_one_trace_serves_every_assignment():
    x, labels, k = example(np.random.default_rng(0), "mixed", np.float32)
    chex.clear_trace_counter()
    traced = jax.jit(chex.assert_max_traces(estimation.maximize, n=1), static_argnums=2)
    for own in (labels, np.roll(labels, 3), np.full_like(labels, 4)):
        fitted = traced(jnp.asarray(x), jnp.asarray(own), k)
        expected = np.bincount(own, minlength=k)
        expected = np.where(expected < 2, 0, expected)
        weights = np.exp(np.asarray(fitted.log_weights))
        np.testing.assert_allclose(weights, expected / expected.sum(), atol=1e-6)


def test_rows_are_as_many_as_asked_for():
    x, labels, k = example(np.random.default_rng(0), "mixed", np.float32)
    entries = int(estimation.num_inverses(jnp.bincount(labels, length=k), 12))
    fitted = in_a_trace(x, labels, k, room=(200, entries + 1))
    assert fitted.rows.shape == (200, 12)
    assert fitted.inverses.shape == (entries + 1,)
    check(fitted, oracles.maximize(x, labels, k), 1e-5)
    assert not np.any(fitted.rows[int(np.sum(fitted.ranks)) :])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_the_floor_tells_what_is_not_finite(value):
    x = np.zeros((10, 3), np.float32)
    x[3, 1] = value
    assert np.isnan(estimation.floor_of(x, np.ones(10, bool)))
    assert estimation.floor_of(x, np.arange(10) != 3) > 0
