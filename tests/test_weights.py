"""Local weights against the paper's counts, at every radius, border and mask."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import synthetic_mixtures as synthetic

from gladjax import assign, mixture, staged, weights

RADII = [0.0, 1.0, 2.0, 2.5]
SHAPE = (4, 5, 6)  # Images, height, width.


def example(rng, *, dtype=np.float64, d=3, k=5, distance=2.0, shape=SHAPE):
    """Features whose components have their places, a mixture, and a ragged mask."""
    moments = synthetic.moments(rng, k, d, distance=distance)
    _, h, w = shape
    home = (np.arange(h)[:, None] + np.arange(w)[None, :]) * k // (h + w)
    labels = np.where(rng.random(shape) < 0.3, rng.integers(0, k, shape), home)
    roots = np.linalg.cholesky(moments[2])
    noise = rng.normal(size=(*shape, d))
    features = moments[1][labels] + np.einsum("mhwij,mhwj->mhwi", roots[labels], noise)
    valid = rng.random(shape) < 0.8
    arrays = (np.asarray(a, dtype) for a in moments)
    with jax.enable_x64(dtype == np.float64):
        fitted = mixture.from_moments(*(jnp.asarray(a) for a in arrays))
    return features.astype(dtype), fitted, moments, valid


def window_sizes(valid, radius):
    """Valid samples within reach of every position."""
    _, h, w = valid.shape
    return np.array(
        [
            [
                sum(valid[:, j, i].sum() for j, i in oracles.disc(y, x, h, w, radius))
                for x in range(w)
            ]
            for y in range(h)
        ]
    )


# Against the paper


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("radius", RADII)
def test_weights_are_the_papers_counts(x64, radius, masked):
    for seed in range(2):
        rng = np.random.default_rng(seed)
        features, fitted, moments, valid = example(rng)
        valid = valid if masked else np.ones(SHAPE, bool)
        expected, labels, history = oracles.local_weights(
            features, moments, radius=radius, valid=valid
        )
        local, info = weights.fit_info(fitted, features, radius=radius, valid=valid)
        np.testing.assert_array_equal(info.labels, labels)
        got = weights.dense(local, len(moments[0]))
        counts = window_sizes(valid, radius)[:, :, None]
        counts = np.where(counts, counts, 1)
        known = counts[:, :, 0] > 0
        np.testing.assert_array_equal(
            np.rint(got * counts)[known], np.rint(expected * counts)[known]
        )
        np.testing.assert_array_equal(got > 0, expected > 0)
        np.testing.assert_allclose(got, expected, rtol=1e-13)
        np.testing.assert_allclose(info.log_likelihood, history, rtol=1e-10)
        assert info.converged
        assert len(history) > 2


def test_weights_in_float32_are_the_papers_counts(rng):
    features, fitted, moments, valid = example(rng, dtype=np.float32, distance=6.0)
    expected, labels, _ = oracles.local_weights(features, moments, valid=valid)
    local, info = weights.fit_info(fitted, features, valid=valid)
    np.testing.assert_array_equal(info.labels, labels)
    got = weights.dense(local, len(moments[0]))
    np.testing.assert_array_equal(got > 0, expected > 0)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_every_step_is_the_papers(x64, steps):
    features, fitted, moments, valid = example(np.random.default_rng(0))
    expected, labels, _ = oracles.local_weights(
        features, moments, valid=valid, max_steps=steps
    )
    local, info = weights.fit_info(fitted, features, valid=valid, max_steps=steps)
    np.testing.assert_array_equal(info.labels, labels)
    np.testing.assert_allclose(weights.dense(local, 5), expected, rtol=1e-13)
    assert len(info.log_likelihood) == steps


@pytest.mark.parametrize("radius", RADII)
def test_windowed_counts_are_the_papers(radius):
    rng = np.random.default_rng(0)
    labels = rng.integers(-1, 4, SHAPE)
    got = np.asarray(weights.counts(jnp.asarray(labels, jnp.int32), 4, radius=radius))
    _, h, w = SHAPE
    for y in range(h):
        for x in range(w):
            near = [labels[:, j, i] for j, i in oracles.disc(y, x, h, w, radius)]
            near = np.concatenate(near)
            expected = np.bincount(near[near >= 0], minlength=4)
            np.testing.assert_array_equal(got[y, x], expected)


@pytest.mark.parametrize("radius", [0.0, 2.5])
def test_bands_of_rows_are_the_whole_map(monkeypatch, radius):
    """The rows around a band count, those of images before too."""
    rng = np.random.default_rng(0)
    features, fitted, _, valid = example(rng, dtype=np.float32, shape=(4, 6, 5))
    past = weights.label_counts(rng.integers(-1, 5, (3, 6, 5)))
    how = {"radius": radius, "valid": valid, "before": past}
    whole, info = weights.fit_info(fitted, features, **how)
    monkeypatch.setattr(weights.bands, "POSITIONS", 10)
    assert weights.band(6, 5) == 2
    banded, report = weights.fit_info(fitted, features, **how)
    np.testing.assert_array_equal(report.labels, info.labels)
    np.testing.assert_array_equal(report.moved, info.moved)
    jax.tree.map(np.testing.assert_array_equal, banded, whole)


# Laws


@pytest.mark.parametrize("radius", RADII)
def test_weights_sum_to_one(radius):
    features, fitted, _, valid = example(np.random.default_rng(3), dtype=np.float32)
    local = weights.fit(fitted, features, radius=radius, valid=valid)
    dense = weights.dense(local, 5)
    np.testing.assert_allclose(dense.sum(axis=2), 1, atol=1e-6)
    assert np.all(dense >= 0)


def supports(features, fitted, valid, radius):
    """The active components after each step."""
    steps = [
        weights.dense(
            weights.fit(
                fitted, features, radius=radius, valid=valid, max_steps=t, tolerance=0.0
            ),
            5,
        )
        > 0
        for t in range(1, 6)
    ]
    return np.stack(steps)


def test_without_a_window_the_dead_stay_dead(x64):
    features, fitted, _, valid = example(np.random.default_rng(0), distance=0.7)
    active = supports(features, fitted, valid, 0.0)
    assert np.all(active[:-1] | ~active[1:])
    assert np.any(active[:-1] & ~active[1:])


def test_with_a_window_neighbours_revive_the_dead(x64):
    revived = 0
    for seed in range(3):
        rng = np.random.default_rng(seed)
        features, fitted, moments, valid = example(rng, distance=0.7, shape=(2, 5, 6))
        active = supports(features, fitted, valid, 1.0)
        revived += np.sum(~active[:-1] & active[1:])
        expected, _, _ = oracles.local_weights(
            features, moments, valid=valid, max_steps=5, tolerance=0.0
        )
        np.testing.assert_array_equal(active[-1], expected > 0)
    assert revived > 0


def test_a_mirror_image_has_mirrored_weights(x64):
    features, fitted, _, valid = example(np.random.default_rng(1))
    local = weights.dense(weights.fit(fitted, features, valid=valid), 5)
    other = weights.fit(fitted, features[:, :, ::-1], valid=valid[:, :, ::-1])
    np.testing.assert_allclose(weights.dense(other, 5)[:, ::-1], local, rtol=1e-12)


def test_the_order_of_images_does_not_matter(x64):
    features, fitted, _, valid = example(np.random.default_rng(1))
    local = weights.dense(weights.fit(fitted, features, valid=valid), 5)
    other = weights.fit(fitted, features[::-1], valid=valid[::-1])
    np.testing.assert_array_equal(weights.dense(other, 5), local)


@pytest.mark.parametrize("guessed", ["right", "wrong", "some"])
def test_a_guess_changes_nothing_but_the_time(x64, guessed):
    features, fitted, _, valid = example(np.random.default_rng(4))
    local, info = weights.fit_info(fitted, features, valid=valid)
    start = np.array(info.labels)
    if guessed == "wrong":
        start = np.where(start >= 0, (start + 1) % 5, -1)
    elif guessed == "some":
        start[::2] = -1
    other, told = weights.fit_info(fitted, features, valid=valid, start=start)
    np.testing.assert_array_equal(weights.dense(other, 5), weights.dense(local, 5))
    np.testing.assert_array_equal(told.labels, info.labels)
    np.testing.assert_array_equal(told.moved, info.moved)
    np.testing.assert_allclose(told.log_likelihood, info.log_likelihood, rtol=1e-12)


def test_the_list_and_the_map_say_the_same(rng):
    features, fitted, _, valid = example(rng, dtype=np.float32)
    local = weights.fit(fitted, features, valid=valid)
    dense = weights.dense(local, 5)
    np.testing.assert_array_equal(weights.active(local), (dense > 0).sum(axis=2))
    starts, components = np.asarray(local.starts), np.asarray(local.components)
    for p in range(len(starts) - 1):
        assert np.all(np.diff(components[starts[p] : starts[p + 1]]) > 0)
    place = np.repeat(np.arange(30), np.diff(starts))
    np.testing.assert_allclose(
        dense.reshape(30, 5)[place, components], np.exp(local.log_weights)
    )


def test_no_radius_reaches_further_than_it_says():
    assert weights.disc(0.0) == [(0, 0)]
    assert len(weights.disc(1.0)) == 5
    assert len(weights.disc(1.5)) == 9
    assert len(weights.disc(2.0)) == 13
    assert len(weights.disc(2.5)) == 21


# Corners


def test_where_nothing_valid_is_near_the_global_weights_stay(x64):
    features, fitted, moments, _ = example(np.random.default_rng(0))
    valid = np.ones(SHAPE, bool)
    valid[:, :3, :3] = False
    expected, _, _ = oracles.local_weights(features, moments, valid=valid)
    got = weights.dense(weights.fit(fitted, features, valid=valid), 5)
    np.testing.assert_allclose(got, expected, rtol=1e-13)
    np.testing.assert_allclose(got[0, 0], moments[0], rtol=1e-13)


@pytest.mark.parametrize("rubbish", [1e6, np.nan, np.inf])
def test_invalid_samples_are_never_used(x64, rubbish):
    features, fitted, _, valid = example(np.random.default_rng(0))
    expected = weights.dense(weights.fit(fitted, features, valid=valid), 5)
    features[~valid] = rubbish
    local, info = weights.fit_info(fitted, features, valid=valid)
    np.testing.assert_array_equal(weights.dense(local, 5), expected)
    assert np.all(info.labels[~valid] == -1)


def test_dead_components_are_nowhere(x64):
    rng = np.random.default_rng(0)
    moments = synthetic.moments(rng, 5, 3, dead=2)
    fitted = mixture.from_moments(*(jnp.asarray(a) for a in moments))
    features = rng.normal(size=(*SHAPE, 3))
    valid = np.ones(SHAPE, bool)
    valid[:, 0] = False
    expected, _, _ = oracles.local_weights(features, moments, valid=valid)
    got = weights.dense(weights.fit(fitted, features, valid=valid), 5)
    np.testing.assert_allclose(got, expected, rtol=1e-13)
    assert not np.any(got[:, :, :2])


def test_one_image_and_one_position(x64):
    features, fitted, moments, _ = example(np.random.default_rng(0), shape=(1, 1, 1))
    expected, _, _ = oracles.local_weights(features, moments)
    got = weights.dense(weights.fit(fitted, features), 5)
    np.testing.assert_array_equal(got, expected)
    assert got.max() == 1


def test_a_window_larger_than_the_map_is_the_whole_map(x64):
    features, fitted, _, _ = example(np.random.default_rng(0))
    got = weights.dense(weights.fit(fitted, features, radius=9.0), 5)
    np.testing.assert_allclose(got, np.broadcast_to(got[0, 0], got.shape), rtol=1e-13)


def test_the_ablation_has_the_global_weights_everywhere(rng):
    _, fitted, moments, _ = example(rng, dtype=np.float32)
    local = weights.uniform(fitted, (3, 4))
    got = weights.dense(local, 5)
    assert got.shape == (3, 4, 5)
    np.testing.assert_allclose(got, np.broadcast_to(moments[0], got.shape), rtol=1e-5)


def test_weights_are_a_pytree(rng):
    features, fitted, _, _ = example(rng, dtype=np.float32)
    local = weights.fit(fitted, features)
    leaves, tree = jax.tree.flatten(local)
    assert len(leaves) == 3
    assert jax.tree.unflatten(tree, leaves).shape == (5, 6)


# Refusals


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"radius": -1.0}, "radius"),
        ({"radius": float("nan")}, "radius"),
        ({"radius": float("inf")}, "radius"),
        ({"valid": np.ones((4, 5, 5), bool)}, "valid"),
        ({"valid": np.zeros(SHAPE, bool)}, "no sample is valid"),
        ({"max_steps": 0}, "max_steps"),
        ({"prior": -1.0}, "prior"),
        ({"prior": float("inf")}, "prior"),
        ({"tolerance": -1.0}, "tolerance"),
    ],
)
def test_impossible_options_are_refused(kwargs, message):
    features, fitted, _, _ = example(np.random.default_rng(0), dtype=np.float32)
    with pytest.raises((ValueError, TypeError), match=message):
        weights.fit(fitted, features, **kwargs)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_samples_that_count_must_be_finite(wrong):
    features, fitted, _, _ = example(np.random.default_rng(0), dtype=np.float32)
    spoiled = np.array(features)
    spoiled[-1, 0, 0, -1] = wrong
    with pytest.raises(ValueError, match="finite"):
        weights.fit(fitted, spoiled)


def test_features_of_another_shape_are_refused():
    features, fitted, _, _ = example(np.random.default_rng(0), dtype=np.float32)
    with pytest.raises((ValueError, TypeError), match="features"):
        weights.fit(fitted, features[0])
    with pytest.raises((ValueError, TypeError), match="features"):
        weights.fit(fitted, features[..., :2])


def test_a_guess_of_another_shape_is_refused():
    features, fitted, _, _ = example(np.random.default_rng(0), dtype=np.float32)
    with pytest.raises((ValueError, TypeError), match="start"):
        weights.fit_info(fitted, features, start=np.zeros(9, np.int32))


# A prior


@pytest.mark.parametrize("prior", [0.5, 20.0])
def test_a_prior_adds_samples_of_the_global_weights(x64, prior):
    features, fitted, moments, valid = example(np.random.default_rng(1))
    local, info = weights.fit_info(fitted, features, valid=valid, prior=prior)
    k = len(moments[0])
    counts = np.asarray(weights.counts(info.labels, k), np.float64)
    expected = counts + prior * np.asarray(moments[0])
    expected /= counts.sum(axis=2, keepdims=True) + prior
    np.testing.assert_allclose(weights.dense(local, k), expected, rtol=1e-10)
    assert info.converged


def test_labels_under_a_prior_are_those_of_least_cost(x64):
    prior = 3.0
    features, fitted, moments, valid = example(np.random.default_rng(0))
    _, info = weights.fit_info(fitted, features, valid=valid, prior=prior, max_steps=2)
    first, _ = weights.fit_info(fitted, features, valid=valid, prior=prior, max_steps=1)
    log_weights = np.log(weights.dense(first, len(moments[0])))
    costs = np.stack(
        [
            [
                [
                    oracles.cost(u, 1.0, mean, covariance)
                    for mean, covariance in zip(*moments[1:], strict=True)
                ]
                for u in row
            ]
            for image in features
            for row in image
        ]
    ).reshape(*SHAPE, -1)
    expected = np.argmin(costs - 2 * log_weights[None], axis=-1)
    np.testing.assert_array_equal(info.labels[valid], expected[valid])


def test_a_strong_prior_leaves_the_global_weights(x64):
    features, fitted, moments, _ = example(np.random.default_rng(0))
    got = weights.dense(weights.fit(fitted, features, prior=1e9), len(moments[0]))
    np.testing.assert_allclose(got, np.broadcast_to(moments[0], got.shape), rtol=1e-6)


def test_bounds_of_a_fit_and_of_its_weights_are_formed_by_one_program(rng, monkeypatch):
    given, plain = [], assign.prepared

    def prepared(*args):
        leaves, tree = jax.tree.flatten(args)
        given.append((tree, *((np.shape(a), str(a.dtype)) for a in leaves)))
        return plain(*args)

    monkeypatch.setattr(assign, "prepared", prepared)
    maps = rng.normal(size=(4, 16, 16, 5)).astype(np.float32)
    mixture, _ = staged.fit(jax.random.key(0), maps, max_steps=2)
    weights.fit(mixture, maps, max_steps=2)
    assert len(given) > 2
    assert len(set(given)) == 1
