"""K-MLE, step by step, against the paper's algorithm from the same start."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import synthetic_mixtures as synthetic

from gladjax import assign, covariance, devices, kmle, mixture, samples, seeding

# Samples per component, features, and how far apart: more, about as many, and fewer
# samples than features; singletons and pairs among them.
SHAPES = {
    "many": ([40, 50, 60], 4, 2.0),
    "mixed": ([1, 2, 9, 12, 13, 40], 12, 4.0),
    "few": ([3, 8, 11, 20], 24, 6.0),
}
STEP = jax.jit(kmle.step, static_argnames=("min_count", "shrinkage"))
KEY = jax.random.key(0)
EVERY_SHAPE = pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("many", np.float64),
        ("mixed", np.float64),
        ("few", np.float64),
        ("mixed", np.float32),
    ],
)


def start(rng, name, *, dtype=np.float64, wrong=0.2):
    """Samples, and labels of which a part is wrong: a start that has to move."""
    counts, d, distance = SHAPES[name]
    x, labels = synthetic.clusters(rng, counts, d, distance=distance)
    k = len(counts)
    astray = rng.random(len(x)) < wrong
    labels = np.where(astray, rng.integers(0, k, len(x)), labels).astype(np.int32)
    return x.astype(dtype), labels, k


def starts(name, dtype):
    """Two starts of different seeds."""
    for seed in range(2):
        yield start(np.random.default_rng(seed), name, dtype=dtype)


def snapshot(labels):
    """A fit that has these labels and has not made a step."""
    return kmle.Snapshot(0, labels.astype(np.int32), np.zeros((0, 5)))


def watched(x, labels, k, **options):
    """Fits from given labels; returns mixture, info and the labels of each step."""
    trail = []
    fitted, info = kmle.fit(
        KEY,
        x,
        num_components=k,
        resume=snapshot(labels),
        monitor=lambda seen: trail.append(seen.labels.copy()),
        **options,
    )
    return fitted, info, trail


def check(fitted, moments, atol):
    weights, means, covariances = moments
    alive = weights > 0
    np.testing.assert_allclose(np.exp(fitted.log_weights), weights, atol=atol)
    scale = np.abs(means[alive]).max()
    np.testing.assert_allclose(
        np.asarray(fitted.means)[alive], means[alive], rtol=0, atol=atol * scale
    )
    dense = synthetic.dense(fitted)[alive]
    scale = np.abs(covariances[alive]).max()
    np.testing.assert_allclose(dense, covariances[alive], rtol=0, atol=atol * scale)


def living(moments):
    alive = moments[0] > 0
    return tuple(part[alive] for part in moments)


def with_x64(dtype):
    return jax.enable_x64(dtype == np.float64)


# Against the paper


@EVERY_SHAPE
def test_steps_match_the_paper(name, dtype):
    atol = 1e-9 if dtype == np.float64 else 1e-5
    with with_x64(dtype):
        for x, labels, k in starts(name, dtype):
            moments = oracles.maximize(x, labels, k)
            arrays = (jnp.asarray(a, dtype) for a in moments)
            state = kmle.KMLEState(mixture.from_moments(*arrays), jnp.int32(0))
            moved = 0
            for number in range(4):
                before = labels
                moments, labels, likelihood = oracles.kmle_step(x, moments)
                state, info = STEP(state, jnp.asarray(x))
                np.testing.assert_array_equal(info.labels, labels)
                check(state.mixture, moments, atol)
                error = atol * max(1, abs(likelihood))
                assert float(info.log_likelihood) == pytest.approx(
                    likelihood, abs=error
                )
                assert int(info.num_components) == np.sum(moments[0] > 0)
                assert int(state.iteration) == number + 1
                moved += np.sum(before != labels)
            assert moved > 0


@EVERY_SHAPE
def test_a_fit_matches_the_paper(name, dtype):
    atol = 1e-9 if dtype == np.float64 else 1e-5
    with with_x64(dtype):
        for x, labels, k in starts(name, dtype):
            moments = oracles.maximize(x, labels, k)
            fitted, info, trail = watched(x, labels, k)
            moments, expected, history = oracles.kmle(x, moments)
            assert len(trail) == len(expected) > 1
            np.testing.assert_array_equal(trail, expected)
            check(fitted, living(moments), atol)
            np.testing.assert_allclose(info.log_likelihood, history, rtol=10 * atol)
            assert info.converged
            assert info.num_components[-1] == np.sum(moments[0] > 0)
            moved = np.sum(np.diff([labels, *trail], axis=0) != 0, axis=1)
            np.testing.assert_array_equal(info.moved, moved)


@pytest.mark.parametrize("min_count", [1, 2, 10])
def test_the_least_count_is_kept_to(x64, min_count):
    x, labels, k = start(np.random.default_rng(3), "mixed")
    moments = oracles.maximize(x, labels, k, min_count=min_count)
    fitted, info, trail = watched(x, labels, k, min_count=min_count, max_steps=6)
    moments, expected, _ = oracles.kmle(x, moments, min_count=min_count, max_steps=6)
    np.testing.assert_array_equal(trail, expected)
    check(fitted, living(moments), 1e-9)
    assert np.bincount(info.labels).min() >= min_count


# Laws


def test_without_shrinkage_the_likelihood_never_falls(x64, rng):
    x, labels, k = start(rng, "many", wrong=0.6)
    state = kmle.KMLEState(
        mixture.from_moments(
            *(jnp.asarray(a) for a in oracles.maximize(x, labels, k, rho=0.0))
        ),
        jnp.int32(0),
    )
    likelihoods = []
    for _ in range(15):
        state, info = STEP(state, jnp.asarray(x), shrinkage=covariance.no_shrinkage)
        likelihoods.append(float(info.log_likelihood))
        counts = np.bincount(info.labels, minlength=k)
        assert counts.min() > x.shape[1]  # Otherwise it may fall.
    # A floor of 1e-6 beside the scatter costs its square.
    assert np.all(np.diff(likelihoods) >= -1e-9)
    assert likelihoods[-1] > likelihoods[0] + 1e-3


def test_rotation_and_scale_change_no_label(x64):
    rng = np.random.default_rng(0)
    x, labels, k = start(rng, "mixed")
    Q = np.linalg.qr(rng.normal(size=(12, 12)))[0]
    _, info, trail = watched(x, labels, k)
    _, other, turned = watched(100 * x @ Q + 7.0, labels, k)
    np.testing.assert_array_equal(trail, turned)
    shift = 12 * np.log(100)
    np.testing.assert_allclose(info.log_likelihood - shift, other.log_likelihood, 1e-9)


def test_the_order_of_samples_does_not_matter(x64):
    rng = np.random.default_rng(0)
    x, labels, k = start(rng, "mixed")
    order = rng.permutation(len(x))
    _, info, _ = watched(x, labels, k)
    _, other, _ = watched(x[order], labels[order], k)
    np.testing.assert_array_equal(other.labels, info.labels[order])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_interrupted_fit_goes_on_to_the_same_result(dtype):
    with with_x64(dtype):
        x, labels, k = start(np.random.default_rng(1), "mixed", dtype=dtype, wrong=0.5)
        seen = []
        fitted, info = kmle.fit(
            KEY, x, num_components=k, resume=snapshot(labels), monitor=seen.append
        )
        assert len(seen) >= 4
        for at in (0, 1, len(seen) - 2, len(seen) - 1):
            again, other = kmle.fit(KEY, x, num_components=k, resume=seen[at])
            np.testing.assert_array_equal(other.labels, info.labels)
            np.testing.assert_array_equal(other.moved, info.moved)
            np.testing.assert_allclose(other.log_likelihood, info.log_likelihood, 1e-6)
            assert other.converged == info.converged
            chex.assert_trees_all_equal(again, fitted)


def test_stopping_early_and_going_on_is_the_same(x64):
    x, labels, k = start(np.random.default_rng(1), "mixed", wrong=0.5)
    _, info, trail = watched(x, labels, k)
    _, _, short = watched(x, labels, k, max_steps=2)
    np.testing.assert_array_equal(short, trail[:2])
    loose = watched(x, labels, k, tolerance=0.5)[1]
    assert len(loose.log_likelihood) == 2
    assert loose.converged
    assert len(info.log_likelihood) > 2


def test_the_same_key_gives_the_same_fit(rng):
    x, _, k = start(rng, "mixed", dtype=np.float32)
    one = kmle.fit(jax.random.key(5), x, num_components=k)
    other = kmle.fit(jax.random.key(5), x, num_components=k)
    chex.assert_trees_all_equal(one, other)


@pytest.mark.parametrize("seed", [seeding.kmeans_plus_plus, seeding.random])
def test_clusters_far_apart_are_found(seed):
    rng = np.random.default_rng(0)
    x, labels = synthetic.clusters(rng, [40, 50, 60], 4, distance=60.0)
    x = x.astype(np.float32)
    for number in range(20):
        fitted, info = kmle.fit(jax.random.key(number), x, num_components=3, seed=seed)
        pairs = set(zip(labels.tolist(), info.labels.tolist(), strict=True))
        if len(pairs) == 3 and info.num_components[-1] == 3:
            break
    assert len(pairs) == 3
    weights = np.exp(np.sort(np.asarray(fitted.log_weights)))
    np.testing.assert_allclose(weights, [40 / 150, 50 / 150, 60 / 150], atol=1e-6)
    if seed is seeding.kmeans_plus_plus:
        assert number == 0


# Seeds


def test_kmeans_plus_plus_never_draws_a_sample_twice(rng):
    x = jnp.asarray(rng.normal(size=(12, 3)), jnp.float32)
    centres = np.asarray(seeding.kmeans_plus_plus(KEY, x, 12))
    assert len({tuple(c) for c in centres}) == 12
    assert {tuple(c) for c in centres} == {tuple(u) for u in np.asarray(x)}


def test_random_seeds_are_different_samples(rng):
    x = jnp.asarray(rng.normal(size=(12, 3)), jnp.float32)
    centres = np.asarray(seeding.random(KEY, x, 5))
    assert len({tuple(c) for c in centres}) == 5
    assert {tuple(c) for c in centres} <= {tuple(u) for u in np.asarray(x)}


def test_the_subsample_is_of_valid_samples(rng):
    valid = rng.random(200) < 0.5
    few = seeding.subsample(KEY, valid, 30)
    assert len(np.unique(few)) == 30
    assert np.all(valid[few])
    every = seeding.subsample(KEY, valid, 200)
    np.testing.assert_array_equal(every, np.flatnonzero(valid))


def test_the_euclidean_assignment_is_the_nearest_centre(x64, rng):
    x, centres = 1e3 + rng.normal(size=(40, 3)), 1e3 + rng.normal(size=(5, 3))
    expected = np.argmin(((x[:, None] - centres[None]) ** 2).sum(axis=2), axis=1)
    found = seeding.euclidean(jnp.asarray(x), jnp.asarray(centres))
    np.testing.assert_array_equal(found, expected)


def test_init_is_one_euclidean_m_step(x64, rng):
    x, _, _ = start(rng, "many")

    def first(key, samples, k):
        return samples[:k]

    state = kmle.init(KEY, jnp.asarray(x), num_components=3, seed=first)
    labels = np.argmin(((x[:, None] - x[None, :3]) ** 2).sum(axis=2), axis=1)
    check(state.mixture, oracles.maximize(x, labels, 3), 1e-9)
    assert int(state.iteration) == 0


# Corners


@pytest.mark.parametrize("rubbish", [1e6, np.nan, np.inf])
def test_invalid_samples_are_never_used(x64, rubbish):
    x, labels, k = start(np.random.default_rng(0), "mixed")
    valid = np.random.default_rng(1).random(len(x)) < 0.8
    _, info, trail = watched(x[valid], labels[valid], k)
    x[~valid] = rubbish
    labels[~valid] = -1
    _, other, masked = watched(x, labels, k, valid=valid)
    np.testing.assert_array_equal([z[valid] for z in masked], trail)
    assert np.all(other.labels[~valid] == -1)
    np.testing.assert_allclose(other.log_likelihood, info.log_likelihood, rtol=1e-9)


@pytest.mark.parametrize("rubbish", [1e6, np.nan])
def test_invalid_samples_are_never_used_in_a_step(x64, rubbish):
    x, labels, k = start(np.random.default_rng(0), "mixed")
    valid = np.random.default_rng(1).random(len(x)) < 0.8
    labels[~valid] = -1
    moments = oracles.maximize(x, labels, k)
    arrays = (jnp.asarray(a) for a in moments)
    state = kmle.KMLEState(mixture.from_moments(*arrays), jnp.int32(0))
    expected, own, likelihood = oracles.kmle_step(x, moments, valid=valid)
    x[~valid] = rubbish
    state, info = STEP(state, jnp.asarray(x), valid=jnp.asarray(valid))
    np.testing.assert_array_equal(info.labels, own)
    check(state.mixture, expected, 1e-9)
    assert float(info.log_likelihood) == pytest.approx(likelihood, rel=1e-9)


def test_invalid_samples_are_no_seeds():
    x, _, _ = start(np.random.default_rng(0), "many", dtype=np.float32)
    valid = np.arange(len(x)) % 3 > 0
    x[~valid] = 1e6
    init = jax.jit(kmle.init, static_argnames="num_components")
    state = init(KEY, jnp.asarray(x), num_components=3, valid=jnp.asarray(valid))
    assert np.abs(state.mixture.means).max() < 1e3
    fitted, info = kmle.fit(KEY, x, num_components=3, valid=valid)
    assert np.abs(fitted.means).max() < 1e3
    assert np.all((info.labels == -1) == ~valid)


def test_one_dimension(x64):
    x, labels = synthetic.clusters(np.random.default_rng(0), [20, 30], 1)
    labels = np.where(np.arange(50) % 5 == 0, 0, labels)
    moments, expected, history = oracles.kmle(x, oracles.maximize(x, labels, 2))
    fitted, info, trail = watched(x, labels, 2)
    np.testing.assert_array_equal(trail, expected)
    check(fitted, living(moments), 1e-9)
    np.testing.assert_allclose(info.log_likelihood, history, rtol=1e-9)


@pytest.mark.parametrize("value", [0.0, 100.1])
def test_data_that_are_all_equal_give_one_component(value):
    x = np.full((30, 4), value, np.float32)
    fitted, info = kmle.fit(KEY, x, num_components=5)
    assert fitted.means.shape == (1, 4)
    np.testing.assert_allclose(fitted.means, value, rtol=1e-6)
    assert np.all(np.isfinite(info.log_likelihood))
    assert info.converged


def test_copies_far_apart_keep_their_components():
    points = 10 * np.random.default_rng(0).normal(size=(3, 4))
    x = np.repeat(points, 10, axis=0).astype(np.float32)
    fitted, info = kmle.fit(KEY, x, num_components=3)
    assert info.converged
    np.testing.assert_allclose(
        np.sort(fitted.means, axis=0), np.sort(points, axis=0), rtol=1e-6
    )
    np.testing.assert_allclose(np.exp(fitted.log_weights), 1 / 3, rtol=1e-6)
    floor = oracles.floor_variance(x)
    np.testing.assert_allclose(fitted.log_dets, 4 * np.log(floor), rtol=1e-4)


def test_constant_features(x64):
    x, labels, k = start(np.random.default_rng(0), "many")
    x[:, 1] = 7.0
    _, expected, _ = oracles.kmle(x, oracles.maximize(x, labels, k))
    _, _, trail = watched(x, labels, k)
    np.testing.assert_array_equal(trail, expected)


def test_at_most_one_component_for_two_samples():
    x = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    fitted, info = kmle.fit(KEY, x, num_components=1000)
    assert 1 <= fitted.means.shape[0] <= 4
    assert np.all(info.labels < fitted.means.shape[0])
    assert np.all(np.isfinite(info.log_likelihood))


def test_as_many_components_as_samples_all_die_and_are_reported():
    x = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    state = kmle.init(KEY, jnp.asarray(x), num_components=6)
    assert np.all(np.isneginf(state.mixture.log_weights))
    _, info = STEP(state, jnp.asarray(x))
    assert float(info.log_likelihood) == -np.inf


def test_a_single_component_is_the_gaussian_of_all(x64):
    x, _, _ = start(np.random.default_rng(0), "many")
    fitted, info = kmle.fit(KEY, x, num_components=1)
    check(fitted, oracles.maximize(x, np.zeros(len(x), int), 1), 1e-9)
    assert len(info.log_likelihood) == 2


def test_no_step_is_the_start(x64):
    x, labels, k = start(np.random.default_rng(0), "many")
    fitted, info, trail = watched(x, labels, k, max_steps=0)
    check(fitted, oracles.maximize(x, labels, k), 1e-9)
    assert trail == []
    assert not info.converged
    np.testing.assert_array_equal(info.labels, labels)


# Transformations


def test_one_trace_serves_all_iterations():
    x, _, k = start(np.random.default_rng(0), "mixed", dtype=np.float32)
    chex.clear_trace_counter()
    traced = jax.jit(chex.assert_max_traces(kmle.step, n=1))
    state = kmle.init(KEY, jnp.asarray(x), num_components=k)
    components = []
    for _ in range(6):
        state, info = traced(state, jnp.asarray(x))
        components.append(int(info.num_components))
    assert int(state.iteration) == 6
    assert components == sorted(components, reverse=True)


def test_vmap_over_seeds_equals_a_loop():
    x, _, k = start(np.random.default_rng(0), "many", dtype=np.float32)
    x = jnp.asarray(x)

    def two_steps(key):
        state = kmle.init(key, x, num_components=k)
        state, _ = kmle.step(state, x)
        state, info = kmle.step(state, x)
        return info.labels, info.log_likelihood, state.mixture.means

    keys = jax.random.split(KEY, 2)
    many = jax.jit(jax.vmap(two_steps))(keys)
    one = jax.jit(two_steps)
    for i in range(2):
        labels, likelihood, means = one(keys[i])
        np.testing.assert_array_equal(many[0][i], labels)
        assert float(many[1][i]) == pytest.approx(float(likelihood), rel=1e-5)
        np.testing.assert_allclose(many[2][i], means, atol=1e-4)


# Refusals


def features(n=10, d=3):
    return np.random.default_rng(0).normal(size=(n, d)).astype(np.float32)


@pytest.mark.parametrize(
    ("function", "kwargs", "message"),
    [
        (kmle.init, {"num_components": 11}, "10 samples are too few for 11"),
        (kmle.init, {"num_components": 0}, "num_components"),
        (kmle.fit, {"num_components": 0}, "num_components"),
        (kmle.fit, {"num_components": -3}, "num_components"),
        (kmle.fit, {"valid": np.zeros(10, bool)}, "no sample is valid"),
        (kmle.fit, {"valid": np.ones(9, bool)}, "valid"),
        (kmle.fit, {"min_count": 0}, "min_count"),
        (kmle.fit, {"min_count": 11}, "10 samples are too few for min_count=11"),
        (kmle.fit, {"max_steps": -1}, "max_steps"),
        (kmle.fit, {"tolerance": -1.0}, "tolerance"),
        (kmle.fit, {"tolerance": float("nan")}, "tolerance"),
    ],
)
def test_impossible_options_are_refused(function, kwargs, message):
    x = features() if function is kmle.fit else jnp.asarray(features())
    with pytest.raises((ValueError, TypeError), match=message):
        function(KEY, x, **kwargs)


def test_features_that_are_not_a_table_are_refused():
    with pytest.raises((ValueError, TypeError), match="features"):
        kmle.fit(KEY, np.zeros((2, 3, 4), np.float32), num_components=1)


def test_no_samples_are_refused():
    with pytest.raises(ValueError, match="sample"):
        kmle.fit(KEY, np.zeros((0, 3), np.float32), num_components=1)


def test_valid_samples_that_are_not_finite_are_refused():
    x = features()
    x[3, 1] = np.nan
    with pytest.raises(ValueError, match="finite"):
        kmle.fit(KEY, x, num_components=2)


def test_snapshots_of_another_fit_are_refused():
    x = features()
    with pytest.raises(ValueError, match="7 labels, not 10"):
        kmle.fit(KEY, x, num_components=2, resume=snapshot(np.zeros(7)))
    with pytest.raises(ValueError, match="more components"):
        kmle.fit(KEY, x, num_components=2, resume=snapshot(np.arange(10)))


@pytest.mark.parametrize("exponent", [0, -40, 40])
def test_streamed_samples_give_the_fit_of_resident_ones(
    tmp_path, monkeypatch, exponent
):
    x, _, k = start(np.random.default_rng(0), "mixed", dtype=np.float32)
    _, expected = kmle.fit(KEY, x, num_components=k, max_steps=4)
    np.save(tmp_path / "x.npy", np.ldexp(x, exponent))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    monkeypatch.setattr(samples, "SLICE", 12)
    monkeypatch.setattr(devices, "CPU", devices.CPU._replace(chunk=32))
    fitted, info = kmle.fit(KEY, mapped, num_components=k, max_steps=4)
    np.testing.assert_array_equal(info.labels, expected.labels)
    # The density of scaled samples is scaled, too.
    shifted = expected.log_likelihood - 12 * exponent * np.log(2)
    np.testing.assert_allclose(info.log_likelihood, shifted, rtol=1e-5)
    near = assign.nearest(fitted, jnp.asarray(np.ldexp(x, exponent)))[0]
    assert np.mean(np.asarray(near) == info.labels) > 0.9


@pytest.mark.parametrize("scale", [1e20, 1e-20])
def test_a_scale_beyond_float32_is_refused(scale):
    x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    with pytest.raises(ValueError, match="range of float32"):
        kmle.fit(KEY, (scale * x).astype(np.float32), num_components=2)


@pytest.mark.parametrize("kind", ["int32", "float16", "bfloat16", "list"])
def test_numbers_of_other_kinds_are_taken(kind):
    x = np.random.default_rng(0).integers(-9, 9, (40, 3))
    given = x.tolist() if kind == "list" else jnp.asarray(x, kind)
    found = samples.checked(given, None)  # The types of `fit` are checked in tests.
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, x)


@pytest.mark.parametrize(
    "wrong", [np.zeros((5, 0)), np.full((5, 2), "a"), np.zeros((5, 2), complex)]
)
def test_what_are_no_samples_is_refused(wrong):
    with pytest.raises(ValueError, match="features must be"):
        samples.checked(wrong, None)
