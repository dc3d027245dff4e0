"""Bicubic warping and the mask of what is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles_align import interpolate
from scipy.ndimage import gaussian_filter
from skimage import data

from gladjax import align
from gladjax.align import sampling, transform


def test_bicubic_matches_keys_kernel_in_loops(rng, variant):
    image = rng.uniform(0, 255, (9, 11)).astype(np.float32)
    x = rng.uniform(0, 10, 40).astype(np.float32)
    y = rng.uniform(0, 8, 40).astype(np.float32)
    found = variant(sampling.bicubic)(*map(jnp.asarray, (image, x, y)))
    wanted = [interpolate(image, a, b) for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-3)


def test_bicubic_is_exact_on_quadratics(rng, x64):
    y, x = jnp.meshgrid(jnp.arange(12.0), jnp.arange(12.0), indexing="ij")
    image = x**2 - 2 * y**2 + x * y
    u, v = (jnp.asarray(rng.uniform(1, 10, 30)) for _ in range(2))
    found = sampling.bicubic(image, u, v)
    np.testing.assert_allclose(found, u**2 - 2 * v**2 + u * v, atol=1e-10)


def test_the_identity_returns_the_image_bit_by_bit():
    image = data.astronaut()[:60, :80]
    warped, valid = align.warp(image, jnp.eye(3), (60, 80))
    np.testing.assert_array_equal(warped, image)
    assert valid.all()


def test_a_whole_shift_moves_pixels_and_reports_what_came_from_outside():
    image = data.camera()[:40, :50]
    shift = jnp.eye(3).at[:2, 2].set(jnp.asarray([7.0, -3.0]))
    warped, valid = align.warp(image, shift, (40, 50))
    np.testing.assert_array_equal(warped[3:, :-7], image[:-3, 7:])
    wanted = np.zeros((40, 50), bool)
    wanted[3:, :-7] = True
    np.testing.assert_array_equal(valid, wanted)
    np.testing.assert_array_equal(warped[3:, -1], image[:-3, -1])  # Nearest pixel.


@pytest.mark.parametrize("motion", ["euclidean", "homography"])
def test_there_and_back_is_the_identity_away_from_the_border(motion):
    image = gaussian_filter(data.camera()[100:228, 100:228].astype(np.float32), 2)
    T = transform.euclidean(0.2, (3.3, -2.1), shape=image.shape)
    if motion == "homography":
        T = T.at[2, 0].set(3e-4)
    there, _ = align.warp(image, T, image.shape)
    back, valid = align.warp(there, transform.inverse(T), image.shape)
    inner = np.asarray(valid)[24:-24, 24:-24]
    assert inner.mean() > 0.95
    gap = np.abs(np.asarray(back) - image)[24:-24, 24:-24][inner]
    assert gap.max() < 1.0  # Two interpolations of an image smooth at two pixels.


def test_the_frame_may_have_another_size_and_channels_are_alike():
    image = data.astronaut()[:64, :48].astype(np.float32)
    T = transform.euclidean(0.1, (1.5, 0.5), shape=(32, 30))
    warped, valid = align.warp(image, T, (32, 30))
    assert warped.shape == (32, 30, 3)
    for c in range(3):
        alone, same = align.warp(image[..., c], T, (32, 30))
        # Programs of one channel and of three may round differently.
        np.testing.assert_allclose(alone, warped[..., c], rtol=1e-6, atol=1e-4)
        np.testing.assert_array_equal(same, valid)


@pytest.mark.parametrize(
    "matrix",
    [
        np.full((3, 3), np.nan),
        np.zeros((3, 3)),
        np.diag([1.0, 1.0, -1.0]),
        np.diag([1e30, 1e30, 1.0]),
        np.array([[1, 0, 0], [0, 1, 0], [1, 1, -20.0]]),
        np.diag([np.inf, 1.0, 1.0]),
    ],
)
def test_senseless_motions_give_no_nan(matrix):
    image = data.camera()[:32, :32]
    warped, valid = align.warp(image, matrix.astype(np.float32), (32, 32))
    assert np.isfinite(warped).all()
    assert not np.asarray(valid)[0, 0] or matrix[0, 0] == 1e30


def test_pixels_that_are_not_finite_do_not_spread_and_are_not_known():
    image = data.camera()[:32, :32].astype(np.float32)
    image[10, 10], image[20, 5] = np.nan, np.inf
    T = transform.euclidean(0.05, (0.5, 0.5), shape=(32, 32))
    warped, valid = align.warp(image, T, (32, 32))
    assert np.isfinite(warped).all()
    unknown = 32 * 32 - int(valid.sum())
    clean, known = align.warp(np.nan_to_num(image, posinf=0), T, (32, 32))
    assert 16 <= unknown - (32 * 32 - int(known.sum())) <= 50
    np.testing.assert_array_equal(np.asarray(warped)[valid], np.asarray(clean)[valid])


def test_a_batch_is_a_loop_and_dtypes_are_kept(rng):
    images = rng.integers(0, 255, (3, 24, 20), dtype=np.uint8)
    angles = (0.0, 0.1, -0.2)
    Ts = jnp.stack([transform.euclidean(a, (0.0, 0.0), shape=(24, 20)) for a in angles])
    warped, valid = align.warp_batch(images, Ts, (24, 20))
    assert warped.dtype == jnp.float32
    for i in range(3):
        alone, known = align.warp(images[i], Ts[i], (24, 20))
        np.testing.assert_allclose(warped[i], alone, atol=1e-3)
        np.testing.assert_array_equal(valid[i], known)


def test_float64_stays_float64(x64):
    image = np.arange(30.0).reshape(5, 6)
    warped, _ = align.warp(image, jnp.eye(3), (5, 6))
    assert warped.dtype == jnp.float64


def test_warp_is_differentiable_by_the_motion():
    image = gaussian_filter(data.camera()[:32, :32].astype(np.float32), 2)

    def total(T):
        warped, valid = align.warp(image, T, (32, 32))
        return jnp.sum(jnp.where(valid, warped, 0))

    T = transform.euclidean(0.05, (0.5, 0.5), shape=(32, 32))
    assert np.isfinite(jax.grad(total)(T)).all()
