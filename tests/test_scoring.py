"""Log-probability maps and scores against the paper, NumPy and SciPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import scipy.ndimage
import synthetic_mixtures as synthetic
from test_assign import spikes

from gladjax import devices, estimation, mixture, scoring, weights

SHAPE = (4, 5)


def sparse(dense, dtype):
    """Local weights as a list, from weights of every component at every position."""
    h, w, k = dense.shape
    at, components = np.nonzero(dense.reshape(h * w, k))
    counts = np.bincount(at, minlength=h * w)
    return weights.LocalWeights(
        starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
        components=components.astype(np.int32),
        log_weights=np.log(dense.reshape(h * w, k)[at, components]).astype(dtype),
        shape=(h, w),
    )


def example(rng, d, *, k=6, dtype=np.float64, distance=3.0):
    """A mixture, local weights with zeros, and features, some of them far away."""
    moments = synthetic.moments(rng, k, d, distance=distance)
    arrays = [np.asarray(a, dtype) for a in moments]
    with jax.enable_x64(dtype == np.float64):
        fitted = mixture.from_moments(*(jnp.asarray(a) for a in arrays))
    h, w = SHAPE
    local = rng.integers(0, 3, (h, w, k)).astype(float)
    local[:, :, 0] += local.sum(axis=2) == 0
    local /= local.sum(axis=2, keepdims=True)
    home = rng.integers(0, k, SHAPE)
    features = moments[1][home] + rng.normal(size=(h, w, d))
    features[0] *= 5
    return features.astype(dtype), fitted, arrays, local


# Against the paper


@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize("d", [1, 8, 32, 128, 200])
def test_the_map_matches_the_paper_in_float64(x64, d, prepared):
    for seed in range(1 if d > 32 else 3):
        features, fitted, moments, local = example(np.random.default_rng(seed), d)
        ready = scoring.prepare(fitted, sparse(local, np.float64)) if prepared else None
        got = scoring.log_prob_map(
            fitted, sparse(local, np.float64), features, prepared=ready
        )
        expected = oracles.log_prob_map(features, moments, local)
        np.testing.assert_allclose(got, expected, rtol=1e-9)


@pytest.mark.parametrize("d", [8, 32, 128, 200])
def test_the_map_matches_the_paper_in_float32(d):
    for seed in range(1 if d > 32 else 3):
        rng = np.random.default_rng(seed)
        features, fitted, moments, local = example(rng, d, dtype=np.float32)
        got = scoring.log_prob_map(fitted, sparse(local, np.float32), features)
        assert np.asarray(got).dtype == np.float32
        expected = oracles.log_prob_map(features, moments, local)
        error = np.abs(np.asarray(got, np.float64) - expected)
        assert np.all(error <= 1e-3 + 1e-6 * np.abs(expected))


@pytest.mark.parametrize("d", [8, 200])
def test_inside_a_trace_the_map_is_the_same(x64, d):
    features, fitted, moments, local = example(np.random.default_rng(0), d)
    listed = jax.tree.map(jnp.asarray, sparse(local, np.float64))
    got = jax.jit(scoring.log_prob_map)(fitted, listed, jnp.asarray(features))
    expected = oracles.log_prob_map(features, moments, local)
    np.testing.assert_allclose(got, expected, rtol=1e-9)


@pytest.mark.parametrize("d", [8, 40, 200])
def test_images_together_are_scored_like_each_alone(d, monkeypatch):
    rng = np.random.default_rng(0)
    features, fitted, _, local = example(rng, d, dtype=np.float32)
    ready = scoring.prepare(fitted, sparse(local, np.float32))
    many = np.stack([features, features[::-1], 2 * features])
    alone = scoring.log_prob_maps(fitted, ready, many)
    together = devices.CPU._replace(together=True, chunk=45)
    monkeypatch.setattr(devices, "CPU", together)
    jax.clear_caches()
    batch = scoring.log_prob_maps(fitted, ready, many)
    jax.clear_caches()
    np.testing.assert_allclose(batch, alone, rtol=1e-5, atol=1e-3)


def test_compact_components_score_like_their_dense_form(x64):
    # Fewer samples than features: scatters of few rows over noise, of many ranks.
    rng = np.random.default_rng(0)
    x, labels = synthetic.clusters(rng, [2, 3, 9, 17, 33, 60], 40)
    fitted = spikes(x, labels, dtype=np.float64)
    assert len(set(np.asarray(fitted.ranks).tolist())) > 4
    features = rng.permutation(x)[:20].reshape(4, 5, 40)
    local = rng.integers(0, 3, (4, 5, 6)).astype(float)
    local[:, :, 0] += local.sum(axis=2) == 0
    local /= local.sum(axis=2, keepdims=True)
    moments = (
        np.exp(fitted.log_weights),
        fitted.means,
        np.asarray(mixture.covariances(fitted)),
    )
    got = scoring.log_prob_map(fitted, sparse(local, np.float64), features)
    expected = oracles.log_prob_map(features, moments, local)
    np.testing.assert_allclose(got, expected, rtol=1e-8)


def test_narrow_components_are_not_left_to_the_polynomial(rng):
    # A component of copies beside wide ones: its polynomial would cancel in float32.
    x, labels = synthetic.clusters(rng, [30, 40], 8)
    x = np.concatenate([x + 50, np.tile(x[:1] + 50, (9, 1))]).astype(np.float32)
    labels = np.concatenate([labels, np.full(9, 2)]).astype(np.int32)
    fitted = estimation.maximize(x, labels, 3)
    features = np.concatenate([x[:19], x[-1:]]).reshape(4, 5, 8)
    local = np.full((4, 5, 3), 1 / 3)
    ready = scoring.prepare(fitted, sparse(local, np.float32))
    assert np.asarray(ready.bounds.precise).tolist()[2] is False
    got = scoring.log_prob_map(fitted, sparse(local, np.float32), features)
    wide = jax.tree.map(
        lambda a: np.asarray(a, np.float64) if a.dtype == np.float32 else np.asarray(a),
        fitted,
    )
    with jax.enable_x64(True):
        sigmas = np.asarray(mixture.covariances(wide))
    moments = (np.exp(wide.log_weights), wide.means, sigmas)
    expected = oracles.log_prob_map(features, moments, local)
    error = np.abs(np.asarray(got, np.float64) - expected)
    assert np.all(error <= 1e-3 + 2e-5 * np.abs(expected))


@pytest.mark.parametrize("sizes", [[(8, 8), (4, 4), (2, 2)], [(5, 6), (3, 4), (2, 3)]])
def test_layers_are_multiplied_on_the_finest_grid(x64, rng, sizes):
    maps = [100 * rng.normal(size=size) for size in sizes]
    for order in (maps, maps[::-1]):
        got = scoring.aggregate([jnp.asarray(m) for m in order])
        np.testing.assert_allclose(got, oracles.product(maps), rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("q", [0.0, 0.005, 0.3, 1.0])
@pytest.mark.parametrize("share", [0.02, 0.5, 1.0])
def test_the_score_matches_the_paper_and_numpy(x64, rng, q, share):
    log_map = 100 * rng.normal(size=(16, 17))
    mask = rng.random((16, 17)) < share
    mask[3, 3] = True
    got = float(scoring.image_score(jnp.asarray(log_map), jnp.asarray(mask), q=q))
    assert got == pytest.approx(oracles.image_score(log_map, mask, q), rel=1e-12)
    assert got == pytest.approx(-np.quantile(log_map[mask], q), rel=1e-12)


# Against a stranger


@pytest.mark.parametrize("sigma", [0.7, 1.0, 2.0])
def test_smoothing_is_scipys(x64, rng, sigma):
    values = rng.normal(size=(20, 23))
    expected = scipy.ndimage.gaussian_filter(values, sigma, mode="reflect")
    got = scoring.upsample(jnp.asarray(values), values.shape, sigma=sigma)
    np.testing.assert_allclose(got, expected, atol=1e-12)


# Laws


def test_global_weights_give_the_mixtures_density(x64, rng):
    features, fitted, _, _ = example(rng, 8)
    local = weights.uniform(fitted, SHAPE)
    got = scoring.log_prob_map(fitted, local, features)
    log_prob = jax.jit(jax.vmap(mixture.log_prob, in_axes=(None, 0)))
    expected = log_prob(fitted, jnp.asarray(features.reshape(-1, 8)))
    # Components 20 nats below the best are left out.
    left_out = 6 * np.exp(-min(scoring.RANGE.values()) / 2)
    np.testing.assert_allclose(got.ravel(), expected, rtol=1e-10, atol=left_out)


def test_what_is_far_away_is_improbable(x64, rng):
    features, fitted, _, local = example(rng, 8)
    listed = sparse(local, np.float64)
    near = scoring.log_prob_map(fitted, listed, features)
    far = scoring.log_prob_map(fitted, listed, 1000 * features)
    assert np.all(far < near)
    assert np.all(np.isfinite(far))


def test_an_inactive_component_says_nothing(x64, rng):
    features, fitted, moments, local = example(rng, 8)
    local[:, :, 3] = 0
    local[:, :, 0] += local.sum(axis=2) == 0
    other = [m.copy() for m in moments]
    other[1][3] += 100
    moved = mixture.from_moments(*(jnp.asarray(a) for a in other))
    listed = sparse(local, np.float64)
    got = scoring.log_prob_map(fitted, listed, features)
    again = scoring.log_prob_map(moved, listed, features)
    np.testing.assert_allclose(got, again, rtol=1e-12)


def test_what_is_left_out_is_below_the_promise(x64):
    # Many components within and beyond the span of 20 nats of the best.
    rng = np.random.default_rng(0)
    k = 60
    covariances = np.tile(np.eye(2), (k, 1, 1))
    means = np.stack([np.linspace(0, 12, k), np.zeros(k)], axis=1)
    moments = (np.full(k, 1 / k), means, covariances)
    fitted = mixture.from_moments(*(jnp.asarray(a) for a in moments))
    features = rng.normal(size=(2, 2, 2))
    local = np.full((2, 2, k), 1 / k)
    got = scoring.log_prob_map(fitted, sparse(local, np.float64), features)
    expected = oracles.log_prob_map(features, moments, local)
    assert np.abs(got - expected).max() <= k * np.exp(-min(scoring.RANGE.values()) / 2)


def test_more_anomalous_scores_higher(rng):
    log_map = jnp.asarray(rng.normal(size=(8, 8)), jnp.float32)
    mask = jnp.ones((8, 8), bool)
    worse = log_map.at[2, 2].add(-50.0)
    score = scoring.image_score
    assert float(score(worse, mask)) > float(score(log_map, mask))
    assert float(score(worse, mask.at[2, 2].set(False))) < float(score(worse, mask))


def test_upsampling_keeps_constants_and_planes(x64):
    constant = scoring.upsample(jnp.full((3, 4), 7.0), (10, 9))
    np.testing.assert_allclose(constant, 7.0, rtol=1e-14)
    y = jnp.broadcast_to(jnp.arange(4.0)[:, None], (4, 4))
    plane = np.asarray(scoring.upsample(y, (8, 8)))
    expected = np.clip((np.arange(8) + 0.5) / 2 - 0.5, 0, 3)
    np.testing.assert_allclose(plane, np.tile(expected[:, None], (1, 8)), rtol=1e-14)


def test_a_heat_map_is_smooth_upside_down_and_calm_outside(x64, rng):
    log_map = rng.normal(size=(8, 8))
    mask = np.ones((8, 8), bool)
    got = scoring.heat_map(jnp.asarray(log_map), jnp.asarray(mask), (32, 32), sigma=2.0)
    expected = scipy.ndimage.gaussian_filter(
        oracles.upsample(-log_map, 32, 32), 2.0, mode="reflect"
    )
    np.testing.assert_allclose(got, expected, atol=1e-11)
    mask[:, 4:] = False
    log_map[:, 4:] = -1e6
    calm = scoring.heat_map(jnp.asarray(log_map), jnp.asarray(mask), (32, 32))
    assert float(calm.max()) < 10


# Corners


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_an_empty_mask_has_no_score(share):
    mask = jnp.full((3, 3), bool(share))
    score = scoring.image_score(jnp.zeros((3, 3), jnp.float32), mask)
    assert bool(jnp.isnan(score)) == (share == 0)


@pytest.mark.parametrize("q", [0.0, 0.005, 0.5])
def test_an_impossible_cell_scores_infinity_not_nan(q):
    log_map = jnp.zeros((3, 3), jnp.float32).at[1, 1].set(-jnp.inf)
    score = float(scoring.image_score(log_map, jnp.ones((3, 3), bool), q=q))
    assert not np.isnan(score)
    assert (score == np.inf) == (q < 0.125)


def test_a_single_cell_is_its_own_quantile():
    mask = jnp.zeros((3, 3), bool).at[0, 2].set(True)
    log_map = jnp.arange(9, dtype=jnp.float32).reshape(3, 3)
    assert float(scoring.image_score(log_map, mask)) == -2.0


def test_no_smoothing_changes_nothing(rng):
    values = jnp.asarray(rng.normal(size=(4, 5)), jnp.float32)
    same = scoring.upsample(values, (4, 5), sigma=0.0)
    np.testing.assert_array_equal(same, values)


# Transformations


def test_maps_vmap_like_a_loop():
    features, fitted, _, local = example(np.random.default_rng(0), 8, dtype=np.float32)
    listed = jax.tree.map(jnp.asarray, sparse(local, np.float32))
    many = jnp.stack([jnp.asarray(features), 2 * jnp.asarray(features)])

    def one(x):
        return scoring.log_prob_map(fitted, listed, x)

    got = jax.jit(jax.vmap(one))(many)
    for i in range(2):
        alone = scoring.log_prob_map(fitted, listed, np.asarray(many[i]))
        np.testing.assert_allclose(got[i], alone, rtol=1e-4)


def test_scores_vmap_like_a_loop(rng):
    maps = jnp.asarray(rng.normal(size=(3, 6, 6)), jnp.float32)
    masks = jnp.asarray(rng.random((3, 6, 6)) < 0.7)
    many = jax.vmap(scoring.image_score)(maps, masks)
    for i in range(3):
        assert float(many[i]) == float(scoring.image_score(maps[i], masks[i]))


def test_the_map_has_a_finite_gradient():
    features, fitted, _, local = example(np.random.default_rng(0), 8, dtype=np.float32)
    listed = jax.tree.map(jnp.asarray, sparse(local, np.float32))

    def total(x):
        return jnp.sum(scoring.log_prob_map(fitted, listed, x))

    gradient = jax.jit(jax.grad(total))(jnp.asarray(features))
    # Against differences of the map in float64.
    with jax.enable_x64(True):
        wide = jax.tree.map(
            lambda a: a.astype(np.float64) if a.dtype == np.float32 else a,
            jax.tree.map(np.asarray, fitted),
        )
        doubled = sparse(local, np.float64)
        x = features.astype(np.float64)
        for at in [(1, 2, 3), (3, 4, 0)]:
            step = np.zeros_like(x)
            step[at] = 1e-5
            after = scoring.log_prob_map(wide, doubled, x + step)
            before = scoring.log_prob_map(wide, doubled, x - step)
            slope = float(jnp.sum(after) - jnp.sum(before)) / 2e-5
            assert float(gradient[at]) == pytest.approx(slope, rel=1e-3)


def test_only_features_have_a_gradient():
    features, fitted, _, local = example(np.random.default_rng(0), 8, dtype=np.float32)
    listed = jax.tree.map(jnp.asarray, sparse(local, np.float32))

    def total(means):
        moved = dataclasses.replace(fitted, means=means)
        return jnp.sum(scoring.log_prob_map(moved, listed, jnp.asarray(features)))

    with pytest.raises(ValueError, match="features only"):
        jax.grad(total)(fitted.means)


# Refusals


def test_maps_of_another_size_are_refused():
    features, fitted, _, local = example(np.random.default_rng(0), 8, dtype=np.float32)
    listed = sparse(local, np.float32)
    with pytest.raises((ValueError, TypeError), match="features"):
        scoring.log_prob_map(fitted, listed, features[:, :-1])
    with pytest.raises((ValueError, TypeError), match="features"):
        scoring.log_prob_map(fitted, listed, features[..., :-1])
    with pytest.raises((ValueError, TypeError), match="mask"):
        scoring.image_score(jnp.zeros((3, 3)), jnp.ones((3, 4), bool))
    with pytest.raises(ValueError, match="at least one"):
        scoring.aggregate([])


@pytest.mark.parametrize("q", [-0.1, 1.1, float("nan")])
def test_quantiles_outside_of_zero_to_one_are_refused(q):
    with pytest.raises(ValueError, match="q must be"):
        scoring.image_score(jnp.zeros((3, 3)), jnp.ones((3, 3), bool), q=q)
