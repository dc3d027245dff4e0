"""What holds for every baseline: shapes, validity, refusals, grids and neighbours."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import oracles_baselines as oracles
import pytest
from scipy import ndimage
from sklearn.neighbors import NearestNeighbors

from gladjax.baselines import grids, mahaad, neighbors, padim, patchcore, spade

SHAPES = {"layer1": (8, 6, 3), "layer2": (4, 3, 4), "layer3": (2, 2, 5)}
OPTIONS = {
    mahaad: {},
    padim: {"dims": [0, 2, 5, 6, 8, 10, 11]},
    patchcore: {"layers": ("layer1", "layer2"), "coreset": list(range(0, 960, 2))},
    spade: {"num_neighbors": (5, 2)},
}
METHODS = pytest.mark.parametrize(
    "method", OPTIONS, ids=[m.__name__.split(".")[-1] for m in OPTIONS]
)


def make(rng, n, shift=0.0):
    """Random feature maps; the last half of the images shifted in one corner."""
    maps = {k: rng.normal(size=(n, *s)).astype(np.float32) for k, s in SHAPES.items()}
    for x in maps.values():
        x[n // 2 :, : x.shape[1] // 2, : x.shape[2] // 2] += shift
    return maps


@functools.cache
def fitted(method):
    """A model, the training set and a test set whose last half is anomalous."""
    rng = np.random.default_rng(3)
    train, test = make(rng, 20), make(rng, 8, shift=6.0)
    return method.fit(jax.random.key(0), train, **OPTIONS[method]), train, test


@METHODS
def test_separates_shifted_corners_and_points_at_them(method):
    model, _, test = fitted(method)
    heat, scores = method.score(model, test)
    assert heat.shape == (8, 32, 24)
    assert heat.dtype == scores.dtype == jnp.float32
    assert float(jnp.min(scores[4:])) > float(jnp.max(scores[:4]))
    assert float(jnp.min(heat[4:, :8, :6])) > float(jnp.max(heat[4:, -8:, -6:]))


@METHODS
def test_scores_do_not_depend_on_the_company_of_an_image(method):
    model, _, test = fitted(method)
    heat, scores = method.score(model, test)
    more = {k: np.concatenate([v[5:], v]) for k, v in test.items()}  # 8 + 3 images.
    again, again_scores = method.score(model, more)
    np.testing.assert_allclose(again[3:], heat, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(again_scores[:3], scores[5:], rtol=1e-4)


@METHODS
def test_float32_agrees_with_float64(method, x64):
    with jax.enable_x64(False):
        model, train, test = fitted(method)
        heat, scores = method.score(model, test)
    train, test = jax.tree.map(lambda x: x.astype(np.float64), (train, test))
    model = method.fit(jax.random.key(0), train, **OPTIONS[method])
    exact_heat, exact_scores = method.score(model, test)
    assert exact_heat.dtype == jnp.float64
    # 1e-4: about 1e3 roundings of 6e-8 with conditions below 10.
    np.testing.assert_allclose(heat, exact_heat, rtol=1e-4)
    np.testing.assert_allclose(scores, exact_scores, rtol=1e-4)


@METHODS
def test_invalid_cells_are_never_used(method):
    _, train, test = fitted(method)
    valid = np.ones((20, 8, 6), bool)
    valid[:5, :4] = False  # The upper half of five images, in every layer.
    results = []
    options = dict(OPTIONS[method])
    if method is patchcore:
        options["coreset"] = 0.5
    for other in (1e6, np.nan):
        spoilt = {k: v.copy() for k, v in train.items()}
        for x in spoilt.values():
            x[:5, : x.shape[1] // 2] = other
        model = method.fit(jax.random.key(0), spoilt, valid=valid, **options)
        results.append(method.score(model, test))
    chex.assert_tree_all_finite(results[0])
    chex.assert_trees_all_equal(*results)
    model, _, _ = fitted(method)
    full, _ = method.score(model, test)
    assert float(jnp.max(jnp.abs(full - results[0][0]))) > 1e-3  # And it matters.


@METHODS
def test_all_valid_changes_nothing(method):
    model, train, _ = fitted(method)
    valid = np.ones((20, 8, 6), bool)
    other = method.fit(jax.random.key(0), train, valid=valid, **OPTIONS[method])
    chex.assert_trees_all_close(model, other, rtol=1e-4, atol=1e-6)


@METHODS
def test_score_is_traced_once_per_shape(method):
    model, _, test = fitted(method)
    method.score(model, test)
    before = method.score._cache_size()
    for _ in range(2):
        _, scores = method.score(model, jax.tree.map(np.array, test))
    assert method.score._cache_size() == before
    assert scores.shape == (8,)


@METHODS
def test_models_are_pytrees(method):
    model, _, _ = fitted(method)
    rebuilt = jax.tree.map(lambda x: x, model)
    assert type(rebuilt) is type(model)
    assert jax.tree.structure(rebuilt) == jax.tree.structure(model)
    assert rebuilt.image_size == (32, 24)


@pytest.mark.parametrize(
    ("method", "options"), [(padim, {"dims": 7}), (patchcore, {"coreset": 0.1})]
)
def test_one_key_gives_one_model(method, options):
    _, train, _ = fitted(method)
    one, two = (method.fit(jax.random.key(0), train, **options) for _ in range(2))
    chex.assert_trees_all_equal(one, two)


@METHODS
@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        (lambda f: {}, {"layers": None}, "no layer"),
        (lambda f: f, {"layers": ("layer1", "nose")}, "nose"),
        (lambda f: f, {"layers": ("layer1", "layer1")}, "twice"),
        (lambda f: f, {"layers": ("layer2", "layer1")}, "finest first"),
        (lambda f: f, {"valid": np.ones((20, 3, 3), bool)}, "valid"),
        (lambda f: f, {"image_size": (0, 5)}, "image_size"),
    ],
)
def test_refuses_what_does_not_fit(method, change, options, words):
    features = change(make(np.random.default_rng(0), 20))
    with pytest.raises(ValueError, match=words):
        method.fit(jax.random.key(0), features, **{**OPTIONS[method], **options})


@pytest.mark.parametrize("method", [mahaad, patchcore, spade])
def test_refuses_a_training_set_without_a_valid_cell(method):
    _, train, _ = fitted(method)
    valid = np.zeros((20, 8, 6), bool)
    with pytest.raises(ValueError, match=r"valid|usable"):
        method.fit(jax.random.key(0), train, valid=valid, **OPTIONS[method])


@METHODS
def test_refuses_test_features_without_a_layer(method):
    model, _, test = fitted(method)
    rest = {k: v for k, v in test.items() if k != "layer2"}
    with pytest.raises(ValueError, match="layer2"):
        method.score(model, rest)


@pytest.mark.parametrize("sigma", [0.0, 1.3, 4.0])
@pytest.mark.parametrize("size", [(20, 33), (12, 7)])
def test_heat_map_equals_the_twin_and_scipy(sigma, size, variant):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(2, 5, 7)).astype(np.float32)
    run = variant(lambda x: grids.heat_map(x, image_size=size, sigma=sigma))
    for found, one in zip(run(jnp.asarray(x)), x, strict=True):
        np.testing.assert_allclose(found, oracles.heat(one, size, sigma), atol=2e-6)


def test_gaussian_matrix_smooths_a_spike_like_scipy():
    spike = np.eye(41)[20]
    expected = ndimage.gaussian_filter1d(spike, 2.0, mode="mirror")
    np.testing.assert_allclose(grids.gaussian_matrix(41, 2.0) @ spike, expected)
    np.testing.assert_array_equal(grids.gaussian_matrix(1, 3.0), [[1.0]])


def test_resizing_keeps_constants_and_ramps():
    for size, target in [(4, 16), (3, 7), (5, 5), (8, 4), (1, 3)]:
        matrix = grids.bilinear_matrix(size, target)
        np.testing.assert_allclose(matrix.sum(axis=1), 1)
    ramp = grids.bilinear_matrix(8, 16) @ (np.arange(8) + 0.5)
    np.testing.assert_allclose(ramp[1:-1], (np.arange(16)[1:-1] + 0.5) / 2)


def test_a_coarse_cell_is_valid_where_all_it_touches_is():
    rng = np.random.default_rng(2)
    valid = rng.random((3, 8, 6)) < 0.7
    found = grids.coarsen(valid, make(rng, 3))
    np.testing.assert_array_equal(found["layer1"], valid)
    blocks = valid.reshape(3, 4, 2, 3, 2).all(axis=(2, 4))
    np.testing.assert_array_equal(found["layer2"], blocks)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("chunk", [7, 1000])
def test_nearest_equals_scikit_learn(k, chunk):
    rng = np.random.default_rng(0)
    bank = rng.normal(size=(150, 6)).astype(np.float32) + 40
    queries = rng.normal(size=(20, 6)).astype(np.float32) + 40
    found = neighbors.nearest(
        jnp.asarray(queries), jnp.asarray(bank), num_neighbors=k, chunk=chunk
    )
    expected = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(
        bank.astype(np.float64)
    )
    distance, rows = expected.kneighbors(queries.astype(np.float64))
    np.testing.assert_array_equal(found[1], rows)
    np.testing.assert_allclose(found[0], distance, rtol=1e-5)


def test_nearest_finds_a_copy_at_distance_zero_despite_a_large_offset():
    bank = jnp.asarray(np.random.default_rng(0).normal(size=(50, 8)) + 1e3, jnp.float32)
    distance, rows = neighbors.nearest(bank, bank)
    np.testing.assert_array_equal(rows[:, 0], np.arange(50))
    np.testing.assert_array_equal(distance, 0)


def test_nearest_passes_over_rows_that_are_not_allowed():
    bank = jnp.asarray([[0.0], [1.0], [2.0]])
    allowed = jnp.asarray([False, True, False])
    distance, rows = neighbors.nearest(
        jnp.zeros((1, 1)), bank, num_neighbors=2, allowed=allowed
    )
    assert rows[0, 0] == 1
    assert distance.tolist() == [[1.0, float("inf")]]


@pytest.mark.parametrize("k", [0, 4])
def test_nearest_refuses_impossible_numbers(k):
    with pytest.raises(ValueError, match="num_neighbors"):
        neighbors.nearest(jnp.zeros((1, 2)), jnp.zeros((3, 2)), num_neighbors=k)


@pytest.mark.parametrize("shape", [(60, 2, 60), (90, 5, 30)])
@pytest.mark.parametrize("candidates", [(8, 3), (1000, 1000)])
def test_coreset_is_the_greedy_choice(shape, candidates):
    n, d, k = shape
    points = np.random.default_rng(n).normal(size=(n, d)).astype(np.float32)
    found = neighbors.coreset(
        jax.random.key(1),
        jnp.asarray(points),
        num_centers=k,
        num_candidates=candidates[0],
        per_round=candidates[1],
    )
    expected = oracles.greedy_coreset(points.astype(float), k, int(found[0]))
    assert found.tolist() == expected


def test_neighbours_and_coreset_work_in_float64(x64):
    points = jnp.asarray(np.random.default_rng(0).normal(size=(90, 5)))
    chosen = neighbors.coreset(jax.random.key(1), points, num_centers=20)
    expected = oracles.greedy_coreset(np.asarray(points), 20, int(chosen[0]))
    assert chosen.tolist() == expected
    distance, rows = neighbors.nearest(points, points[chosen], num_neighbors=2)
    assert distance.dtype == jnp.float64
    np.testing.assert_array_equal(rows[chosen, 0], np.arange(20))


def test_coreset_of_copies_still_chooses_different_points():
    points = jnp.ones((30, 4))
    found = neighbors.coreset(
        jax.random.key(0), points, num_centers=30, num_candidates=4, per_round=4
    )
    assert sorted(found.tolist()) == list(range(30))


def test_coreset_covers_better_than_chance():
    rng = np.random.default_rng(0)
    points = jnp.asarray(rng.normal(size=(2000, 4)), jnp.float32)
    chosen = neighbors.coreset(jax.random.key(0), points, num_centers=200)
    radius = jnp.max(neighbors.nearest(points, points[chosen])[0])
    chance = jnp.max(neighbors.nearest(points, points[:200])[0])
    # Farthest-first is within twice the best covering; a random one has outliers.
    assert float(radius) < 0.7 * float(chance)


@pytest.mark.parametrize(
    "options",
    [{"num_centers": 0}, {"num_centers": 9}, {"num_centers": 2, "per_round": 0}],
)
def test_coreset_refuses_impossible_numbers(options):
    with pytest.raises(ValueError, match=r"num_centers|per_round"):
        neighbors.coreset(jax.random.key(0), jnp.zeros((8, 2)), **options)


def test_projection_keeps_distances():
    points = jnp.asarray(np.random.default_rng(0).normal(size=(40, 900)), jnp.float32)
    flat = neighbors.project(jax.random.key(0), points, num_dims=400)
    assert flat.shape == (40, 400)
    ratio = jnp.linalg.norm(flat[1:] - flat[:1], axis=1) / jnp.linalg.norm(
        points[1:] - points[:1], axis=1
    )
    # Standard deviation 1 / sqrt(2 * 400) = 0.035; five of them for 39 pairs.
    assert float(jnp.max(jnp.abs(ratio - 1))) < 0.18
    same = neighbors.project(jax.random.key(0), points, num_dims=900)
    np.testing.assert_array_equal(same, points)
    with pytest.raises(ValueError, match="num_dims"):
        neighbors.project(jax.random.key(0), points, num_dims=0)
