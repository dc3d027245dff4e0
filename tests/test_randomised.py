"""Randomised data sets: motions from a key, images and masks that move together."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage import data

from gladjax import align
from gladjax.align import transform
from gladjax.datasets import randomised

SHAPE = (64, 80)


def test_motions_come_from_the_key_and_keep_their_limits():
    draw = lambda seed: randomised.draw(  # noqa: E731
        jax.random.key(seed), 200, SHAPE, max_angle=0.2, max_shift=0.1
    )
    R = draw(0)
    np.testing.assert_array_equal(R, draw(0))
    assert not np.array_equal(R, draw(1))
    angles = np.arctan2(R[:, 1, 0], R[:, 0, 0])
    assert 0.18 < abs(angles).max() <= 0.2
    centre = jnp.asarray([[(SHAPE[1] - 1) / 2, (SHAPE[0] - 1) / 2]])
    shift = np.stack([transform.apply(T, centre)[0] - centre[0] for T in R])
    assert 7 < abs(shift[:, 0]).max() <= 8.001
    assert 5.5 < abs(shift[:, 1]).max() <= 6.401
    with pytest.raises(ValueError, match="max_angle"):
        randomised.draw(jax.random.key(0), 1, SHAPE, max_angle=-1.0)


def test_no_motion_leaves_the_image():
    image = data.astronaut()[:64, :80]
    moved, valid = randomised.apply(image, jnp.eye(3))
    np.testing.assert_array_equal(moved, image)
    assert valid.all()


def test_moved_images_are_warped_and_their_border_is_background():
    image = np.full((64, 80, 3), 180.0, np.float32)
    image[20:40, 30:50] = 40
    R = transform.euclidean(0.6, (5.0, 3.0), shape=SHAPE)
    moved, valid = randomised.apply(image, R)
    warped, known = align.warp(image, R, SHAPE)
    np.testing.assert_array_equal(valid, known)
    np.testing.assert_array_equal(np.asarray(moved)[valid], np.asarray(warped)[valid])
    assert not valid.all()
    np.testing.assert_allclose(np.asarray(moved)[~np.asarray(valid)], 180, atol=1e-3)


def test_the_border_is_blurred_not_streaked():
    rng = np.random.default_rng(0)
    image = (180 + rng.normal(0, 20, SHAPE)).astype(np.float32)
    R = transform.euclidean(0.0, (20.0, 0.0), shape=SHAPE)
    moved, valid = randomised.apply(image, R)
    border = np.asarray(moved)[~np.asarray(valid)]
    assert border.size
    assert border.std() < 10


def test_masks_move_with_their_images():
    mask = np.zeros(SHAPE, bool)
    mask[20:40, 30:50] = True
    R = transform.euclidean(0.5, (-4.0, 6.0), shape=SHAPE)
    moved = np.asarray(randomised.apply_mask(mask, R))
    image, _ = randomised.apply(mask.astype(np.float32), R)
    sure = np.abs(np.asarray(image) - 0.5) > 0.4
    np.testing.assert_array_equal(moved[sure], np.asarray(image)[sure] > 0.5)
    far = transform.euclidean(0.0, (500.0, 0.0), shape=SHAPE)
    assert not np.asarray(randomised.apply_mask(np.ones(SHAPE, bool), far)).any()


def test_a_version_is_its_images_moved_one_by_one():
    images = np.stack([data.camera()[:64, :80], data.camera()[200:264, 200:280]])
    moved, R = randomised.version(jax.random.key(1), images, max_angle=0.3)
    for i in range(2):
        alone, _ = randomised.apply(images[i], R[i])
        np.testing.assert_allclose(moved[i], alone, atol=1e-3)
    other, _ = randomised.version(jax.random.key(2), images, max_angle=0.3)
    assert not np.array_equal(moved, other)


def test_registering_a_moved_image_finds_its_motion():
    image = data.astronaut()[:192, 128:320]
    (moved,), (R,) = randomised.version(
        jax.random.key(0), image[None], max_angle=0.1, max_shift=0.03
    )
    T, info = align.register(image, moved)
    assert bool(info.success)
    undone = transform.compose(R, T)
    gap = align.end_point_error(undone, jnp.eye(3), image.shape[:2])
    assert float(gap) < 0.1
