"""Images given as arrays: one score for one picture, and no other range in silence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from gladjax import detector, features, images, streaming


@pytest.fixture(scope="module")
def picture():
    return tiny.pictures(1, first=50)[0]


# Corners


@pytest.mark.parametrize(
    "dtype", [np.float64, np.float32, np.float16, np.int64, np.uint16, np.int32, ">f8"]
)
def test_one_picture_has_one_score_whatever_its_type(picture, dtype):
    expected = detector.score(tiny.fitted(), picture)
    found = detector.score(tiny.fitted(), picture.astype(dtype))
    assert found.score == expected.score
    np.testing.assert_array_equal(found.heat_map, expected.heat_map)


def test_arrays_of_jax_are_images_too(picture):
    expected = detector.score(tiny.fitted(), picture).score
    for dtype in (jnp.uint8, jnp.float32, jnp.bfloat16):  # bfloat16 has 0 to 255.
        given = jnp.asarray(picture).astype(dtype)
        assert detector.score(tiny.fitted(), given).score == expected


def test_what_is_not_whole_is_not_rounded(picture):
    half = picture.astype(np.float32) + 0.25
    np.testing.assert_array_equal(
        images.standard(np.minimum(half, 255)), half.clip(0, 255)
    )


def test_rounding_errors_and_black_pictures_are_no_other_range():
    for value in (255.0001, -0.0001, 0.0):
        images.standard(np.full((4, 4, 3), value))
    assert images.standard(np.ones((4, 4, 3), np.uint16)).dtype == np.uint8


def test_files_above_white_are_white_and_dark_ones_black():
    values = np.array([[[0, 100, 300.0]]], np.float32)
    assert images.saturated(values).tolist() == [[[0, 100, 255]]]
    assert images.saturated(values / 300).tolist() == [[[0, 0, 1]]]
    images.standard(images.saturated(values / 300))


# Refusals


def damaged(picture, value):
    array = picture.astype(np.float32)
    array[3, 4, 1] = value
    return array


REFUSED = {
    "NaN": (lambda p: damaged(p, np.nan), "1 of its pixels are NaN or infinite"),
    "infinite": (lambda p: damaged(p, np.inf), "NaN or infinite"),
    "minus infinite": (lambda p: damaged(p, -np.inf), "NaN or infinite"),
    "0 to 1": (lambda p: p / 255.0, "expected RGB, 0 to 255: multiply by 255"),
    "-1 to 1": (lambda p: p / 127.5 - 1, "values from -.* expected RGB, 0 to 255"),
    "16 bits": (lambda p: p.astype(np.uint16) * 257, r"to \d{5}; expected RGB"),
    "normalised": (lambda p: (p - 120.0) / 58, "expected RGB, 0 to 255"),
    "booleans": (lambda p: p > 9, "of type bool; expected RGB"),
    "complex": (lambda p: p + 0j, "of type complex128"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_other_ranges_are_refused_and_named(picture, kind):
    change, words = REFUSED[kind]
    bad = change(picture)
    with pytest.raises(images.ImageError, match=f"^a: .*{words}"):
        images.standard(bad, name="a")
    if kind in ("booleans", "complex"):
        return  # The annotations of the tests refuse them before.
    with pytest.raises(images.ImageError, match=f"^image: .*{words}"):
        detector.score(tiny.fitted(), bad)
    with pytest.raises(images.ImageError, match=r"^image 1: "):
        detector.score_batch(tiny.fitted(), [picture, bad])
    with pytest.raises(images.ImageError, match=r"^image 2: "):
        detector.fit(jax.random.key(0), tiny.network(), [picture, picture, bad])
    good, refused = streaming.score_many(tiny.fitted(), [picture, bad])
    assert good.score == detector.score(tiny.fitted(), picture).score
    assert isinstance(refused, images.ImageError)
    assert str(refused).startswith("image 1: ")


@pytest.mark.parametrize(
    "shape", [(4, 4), (4, 4, 1), (4, 4, 4), (0, 4, 3), (1, 4, 4, 3)]
)
def test_other_shapes_are_refused(shape):
    with pytest.raises(images.ImageError, match=r"expected \(height, width, 3\)"):
        images.standard(np.zeros(shape))


def test_files_are_named_by_their_paths(tmp_path):
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    read = {paths[0]: np.zeros((9, 9, 3)), paths[1]: np.full((9, 9, 3), 300.0)}
    lazy = images.Lazy(paths, read=read.__getitem__)
    results = list(streaming.score_many(tiny.fitted(), lazy))
    assert str(results[1]).startswith(f"{paths[1]}: values from 300 to 300")
    with pytest.raises(images.ImageError, match=r"b\.png: values"):
        detector.fit(jax.random.key(0), tiny.network(), lazy)


def test_features_of_what_is_not_finite_are_refused(picture):
    with pytest.raises(ValueError, match="image 1 has pixels that are NaN"):
        features.extract_batches(tiny.network(), [picture, damaged(picture, np.nan)])
