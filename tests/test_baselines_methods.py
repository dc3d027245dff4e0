"""MahaAD, PaDiM, PatchCore and SPADE against twins, strangers and golden scores."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import oracles_baselines as oracles
import pytest
from sklearn.covariance import LedoitWolf

from gladjax.baselines import mahaad, padim, patchcore, spade

HERE = pathlib.Path(__file__).parent

SHAPES = {"layer1": (6, 4, 3), "layer2": (3, 2, 4), "layer3": (2, 2, 5)}


def make(rng, n, names=tuple(SHAPES)):
    """Random feature maps with a mean of their own at each place."""
    place = np.random.default_rng(99)
    found = {}
    for name in names:
        mean = place.normal(size=SHAPES[name])
        found[name] = mean + rng.normal(size=(n, *SHAPES[name]))
    return {k: v.astype(np.float32) for k, v in found.items()}


@pytest.fixture(scope="module")
def golden():
    """Features, and the scores that anomalib gives them."""
    with np.load(HERE / "golden" / "baselines" / "anomalib.npz") as file:
        arrays = dict(file)
    for part in ("train", "test"):
        arrays[part] = {
            name: arrays[f"{part}_{name}"].astype(np.float32) for name in SHAPES
        }
    return arrays


def correlation(a, b):
    """Pearson's correlation of two arrays."""
    return np.corrcoef(np.ravel(a), np.ravel(b))[0, 1]


# --- MahaAD


@pytest.mark.parametrize("shape", [(12, 40), (400, 10), (5, 1)])
def test_ledoit_wolf_equals_scikit_learn(shape, rng, variant):
    m, d = shape
    mix = rng.normal(size=(d, d))
    x = (rng.normal(size=(m, d)) @ mix + 5).astype(np.float32)
    covariance, rho = variant(mahaad.ledoit_wolf)(jnp.asarray(x))
    peer = LedoitWolf().fit(x.astype(np.float64))
    scale = np.abs(peer.covariance_).max()
    # Sums of m terms of float32, and a centring that loses the mean's bits.
    np.testing.assert_allclose(rho, peer.shrinkage_, atol=2e-5)
    np.testing.assert_allclose(covariance, peer.covariance_, atol=3e-5 * scale)


def test_mahaad_equals_scikit_learn(rng):
    train, test = make(rng, 30), make(rng, 7)
    _, scores = mahaad.score(mahaad.fit(None, train), test)
    expected = np.zeros(7)
    for name in SHAPES:
        peer = LedoitWolf().fit(train[name].mean(axis=(1, 2), dtype=np.float64))
        pooled = test[name].mean(axis=(1, 2), dtype=np.float64)
        expected += np.sqrt(peer.mahalanobis(pooled))
    np.testing.assert_allclose(scores, expected, rtol=1e-4)


def test_mahaad_is_invariant_to_scale_and_place():
    rng = np.random.default_rng(0)
    train, test = make(rng, 30), make(rng, 5)
    _, scores = mahaad.score(mahaad.fit(None, train), test)

    def change(maps):
        return {k: 3 * v[:, ::-1, ::-1] + 1 for k, v in maps.items()}

    _, changed = mahaad.score(mahaad.fit(None, change(train)), change(test))
    np.testing.assert_allclose(scores, changed, rtol=1e-3)


def test_mahaad_map_of_constant_features_is_the_score():
    rng = np.random.default_rng(0)
    train = {"layer1": rng.normal(size=(20, 4, 4, 3)).astype(np.float32)}
    test = {"layer1": np.ones((2, 4, 4, 3), np.float32)}
    heat, scores = mahaad.score(mahaad.fit(None, train), test)
    np.testing.assert_allclose(heat, np.broadcast_to(scores[:, None, None], heat.shape))


def test_mahaad_of_copies_has_finite_scores():
    train = {"layer1": np.ones((5, 4, 4, 3), np.float32)}
    _, scores = mahaad.score(mahaad.fit(None, train), train)
    np.testing.assert_array_equal(scores, 0)


# --- PaDiM


@pytest.mark.parametrize("dims", [[0], list(range(12))])
def test_padim_equals_its_twin(dims):
    rng = np.random.default_rng(0)
    train, test = make(rng, 9), make(rng, 3)
    model = padim.fit(jax.random.key(0), train, dims=dims, image_size=(20, 17))
    heat, scores = padim.score(model, test)
    expected = oracles.padim(train, test, dims, 0.01, (20, 17), 4.0)
    # Rank-deficient covariances (8 of 12) have condition 1e3: 1e3 * 6e-8 and sums.
    np.testing.assert_allclose(heat, expected[0], rtol=1e-3)
    np.testing.assert_allclose(scores, expected[1], rtol=1e-3)


def test_padim_equals_anomalib(golden):
    dims, size = golden["padim_dims"], golden["padim_map"].shape[1:]
    # anomalib adds 1e-5 I on top of the paper's 0.01 I.
    model = padim.fit(
        jax.random.key(0),
        golden["train"],
        dims=dims,
        regularization=0.01 + 1e-5,
        image_size=size,
    )
    heat, scores = padim.score(model, golden["test"])
    assert correlation(heat, golden["padim_map"]) > 0.999999
    assert correlation(scores, golden["padim_score"]) > 0.999999
    np.testing.assert_allclose(heat, golden["padim_map"], rtol=5e-4)
    np.testing.assert_allclose(scores, golden["padim_score"], rtol=5e-4)


def test_padim_chooses_different_dimensions_per_key_and_the_same_everywhere():
    train = make(np.random.default_rng(0), 6)
    chosen = set()
    for seed in range(4):
        model = padim.fit(jax.random.key(seed), train, dims=5)
        kept = [model.dims[k].tolist() for k in SHAPES]
        assert sum(map(len, kept)) == 5
        assert all(len(set(part)) == len(part) for part in kept)
        chosen.add(str(kept))
    assert len(chosen) > 1


def test_padim_keeps_all_dimensions_where_there_are_fewer_than_asked_for():
    train = make(np.random.default_rng(0), 6)
    model = padim.fit(jax.random.key(0), train, dims=500)
    assert model.mean.shape == (6, 4, 12)


def test_padim_leaves_out_invalid_images_position_by_position():
    rng = np.random.default_rng(4)
    train, test = make(rng, 12, ["layer1"]), make(rng, 2, ["layer1"])
    valid = np.ones((12, 6, 4), bool)
    valid[:4, 2, 1] = False
    valid[:, 5, 3] = False
    options = {"dims": [0, 1, 2], "image_size": (6, 4), "sigma": 0.0}
    model = padim.fit(jax.random.key(0), train, valid=valid, **options)
    heat, _ = padim.score(model, test)
    full, _ = padim.score(padim.fit(jax.random.key(0), train, **options), test)
    rest = {"layer1": train["layer1"][4:]}
    part, _ = padim.score(padim.fit(jax.random.key(0), rest, **options), test)
    np.testing.assert_allclose(heat[:, 0, 0], full[:, 0, 0], rtol=1e-5)
    np.testing.assert_allclose(heat[:, 2, 1], part[:, 2, 1], rtol=1e-5)
    np.testing.assert_array_equal(heat[:, 5, 3], 0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dims": 0}, "dims"),
        ({"dims": [0, 0]}, "twice"),
        ({"dims": [99]}, "dims"),
        ({"dims": [-1]}, "dims"),
        ({"dims": np.array([0.5])}, "dims"),
        ({"regularization": 0.0}, "regularization"),
        ({"sigma": -1.0}, "sigma"),
    ],
)
def test_padim_refuses_bad_options(options, words):
    train = make(np.random.default_rng(0), 4)
    with pytest.raises(ValueError, match=words):
        padim.fit(jax.random.key(0), train, **options)


def test_padim_refuses_another_grid():
    train = make(np.random.default_rng(0), 4)
    model = padim.fit(jax.random.key(0), train, dims=3)
    with pytest.raises(ValueError, match="layer1"):
        padim.score(model, {k: v[:, 1:] for k, v in train.items()})


@pytest.mark.parametrize("r", [1, 16, 17, 100])
def test_triangular_inverse_by_halves_equals_numpy(r):
    rng = np.random.default_rng(r)
    A = rng.normal(size=(r, 2 * r + 2))
    L = np.linalg.cholesky(A @ A.T)
    found = padim._invert_lower(jnp.asarray(L, jnp.float32))
    expected = np.linalg.inv(L)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_array_equal(np.triu(found, 1), 0)


# --- PatchCore


@pytest.mark.parametrize("num_neighbors", [1, 9])
def test_patchcore_equals_its_twin(num_neighbors):
    rng = np.random.default_rng(0)
    names = ["layer1", "layer2"]
    train, test = make(rng, 5, names), make(rng, 3, names)
    rows = rng.permutation(5 * 24)[:20]
    model = patchcore.fit(
        jax.random.key(0),
        train,
        layers=names,
        coreset=rows,
        num_neighbors=num_neighbors,
        image_size=(20, 17),
    )
    heat, scores = patchcore.score(model, test)
    expected = oracles.patchcore(train, test, rows, num_neighbors, (20, 17), 4.0)
    np.testing.assert_allclose(heat, expected[0], rtol=1e-4)
    np.testing.assert_allclose(scores, expected[1], rtol=1e-4, atol=1e-6)


def test_patchcore_equals_anomalib(golden):
    expected = golden["patchcore_patches"]
    model = patchcore.fit(
        jax.random.key(0),
        golden["train"],
        coreset=golden["patchcore_coreset"],
        image_size=expected.shape[1:],
        sigma=0.0,
    )
    heat, scores = patchcore.score(model, golden["test"])
    assert correlation(heat, expected) > 0.999999
    assert correlation(scores, golden["patchcore_score"]) > 0.999999
    np.testing.assert_allclose(heat, expected, rtol=1e-4)
    np.testing.assert_allclose(scores, golden["patchcore_score"], rtol=1e-4)


def test_golden_file_separates_its_anomalies(golden):
    # The last three images are the anomalous ones; a golden file that could not tell
    # them would prove little.
    for name in ("padim_score", "patchcore_score"):
        assert golden[name][3:].min() > golden[name][:3].max()


def test_patchcore_with_the_whole_bank_gives_training_images_zero():
    train = make(np.random.default_rng(1), 4)
    model = patchcore.fit(jax.random.key(0), train, coreset=1.0)
    heat, scores = patchcore.score(model, train)
    assert model.bank.shape == (4 * 6, 9)
    np.testing.assert_array_equal(heat, 0)
    np.testing.assert_array_equal(scores, 0)


def test_patchcore_coreset_is_drawn_from_valid_patches_only():
    train = make(np.random.default_rng(2), 6)
    valid = np.zeros((6, 6, 4), bool)
    valid[3] = True
    model = patchcore.fit(jax.random.key(0), train, valid=valid, coreset=1.0)
    only = {k: v[3:4] for k, v in train.items()}
    alone = patchcore.fit(jax.random.key(0), only, coreset=1.0)
    np.testing.assert_array_equal(model.bank, alone.bank)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"coreset": 0.0}, "coreset"),
        ({"coreset": 1.5}, "coreset"),
        ({"coreset": [999]}, "coreset"),
        ({"coreset": np.array([0.5, 0.1])}, "coreset"),
        ({"num_neighbors": 0}, "num_neighbors"),
        ({"sigma": -1.0}, "sigma"),
    ],
)
def test_patchcore_refuses_bad_options(options, words):
    train = make(np.random.default_rng(0), 4)
    with pytest.raises(ValueError, match=words):
        patchcore.fit(jax.random.key(0), train, **options)


# --- SPADE


@pytest.mark.parametrize("num_neighbors", [(1, 1), (4, 5)])
def test_spade_equals_its_twin(num_neighbors):
    rng = np.random.default_rng(0)
    train, test = make(rng, 6), make(rng, 2)
    model = spade.fit(None, train, num_neighbors=num_neighbors, image_size=(20, 17))
    heat, scores = spade.score(model, test)
    expected = oracles.spade(train, test, *num_neighbors, (20, 17), 4.0)
    np.testing.assert_allclose(heat, expected[0], rtol=1e-4)
    np.testing.assert_allclose(scores, expected[1], rtol=1e-4)


def test_spade_on_a_coarser_grid_averages_finer_layers():
    rng = np.random.default_rng(3)
    train, test = make(rng, 6), make(rng, 2)
    model = spade.fit(None, train, grid="layer2", image_size=(12, 8))

    def average(maps):
        fine = maps["layer1"].reshape(-1, 3, 2, 2, 2, 3).mean(axis=(2, 4))
        return {**maps, "layer1": fine}

    expected = oracles.spade(average(train), average(test), 6, 1, (12, 8), 4.0)
    heat, scores = spade.score(model, test)
    np.testing.assert_allclose(heat, expected[0], rtol=1e-4)
    np.testing.assert_allclose(scores, expected[1], rtol=1e-4)


def test_spade_gives_training_images_a_map_of_zeros():
    train = make(np.random.default_rng(5), 4)
    heat, _ = spade.score(spade.fit(None, train), train)
    np.testing.assert_array_equal(heat, 0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"grid": "nose"}, "grid"),
        ({"num_neighbors": (0, 1)}, "num_neighbors"),
        ({"num_neighbors": (1, 99)}, "num_neighbors"),
        ({"sigma": -1.0}, "sigma"),
        ({"layers": ("layer1", "layer3"), "grid": "layer3"}, None),
    ],
)
def test_spade_refuses_bad_options(options, words):
    train = make(np.random.default_rng(0), 4)
    if words is None:  # 6 x 4 divides into 2 x 2: accepted.
        assert spade.fit(None, train, **options).allowed.shape == (4, 2, 2)
        return
    with pytest.raises(ValueError, match=words):
        spade.fit(None, train, **options)
