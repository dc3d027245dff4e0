"""Registration of whole images: accuracy, robustness, failures, large motions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage import data

from gladjax import align
from gladjax.align import registration, transform
from gladjax.experiments import alignment

SIDE = 96
PHOTOGRAPHS = ("camera", "astronaut", "coffee", "chelsea")


@functools.cache
def cases(motion):
    """A reference, its moved image and the motion, for each photograph."""
    rng = np.random.default_rng(3)
    found = []
    for name in PHOTOGRAPHS:
        T = alignment.random_motion(rng, motion, SIDE)
        found.append((*alignment.render(getattr(data, name)(), T, SIDE), T))
    return found


def errors(found, motion, **options):
    """End-point errors over the cases."""
    out = []
    for reference, image, T in found:
        estimate, info = align.register(reference, image, motion=motion, **options)
        assert bool(info.success)
        truth = jnp.asarray(T, jnp.float32)
        out.append(float(align.end_point_error(estimate, truth, reference.shape)))
    return np.array(out)


@pytest.mark.parametrize(
    ("motion", "limit"),
    [
        ("translation", 0.05),
        ("euclidean", 0.05),
        ("similarity", 0.05),
        ("affine", 0.1),
        ("homography", 0.2),
    ],
)
def test_known_motions_of_photographs_are_recovered(motion, limit):
    assert errors(cases(motion), motion).max() < limit


def occluded(motion="euclidean"):
    rng = np.random.default_rng(5)
    others = [image for _, image, _ in cases(motion)]
    return [
        (reference, alignment.occlude(rng, image, 255 - others[i - 1][20:, 20:]), T)
        for i, (reference, image, T) in enumerate(cases(motion))
    ]


@pytest.mark.parametrize(
    "robust", ["truncated_quadratic", "geman_mcclure", "lorentzian", "charbonnier"]
)
def test_an_occluder_hardly_moves_robust_registration_but_the_quadratic_one(robust):
    good = errors(occluded(), "euclidean", robust=robust)
    bad = errors(occluded(), "euclidean", robust="quadratic")
    assert good.max() < 0.3
    assert bad.mean() > 2 * good.mean()


def test_noise_of_twenty_grey_levels_costs_a_fraction_of_a_pixel():
    rng = np.random.default_rng(0)
    noisy = [
        (*(a + rng.normal(0, 20, a.shape).astype(np.float32) for a in pair), T)
        for *pair, T in cases("euclidean")
    ]
    assert errors(noisy, "euclidean").mean() < 0.3


def test_an_error_function_may_be_given():
    def welsch(s2, scale):
        return -jnp.exp(-s2 / jnp.square(scale))

    reference, (image, *_) = small()
    T, info = align.register(reference, image, robust=welsch)
    assert bool(info.success)
    wanted, _ = align.register(reference, image)
    np.testing.assert_allclose(T, wanted, atol=0.1)


def test_no_motion_is_exactly_the_identity():
    reference = cases("euclidean")[0][0]
    T, info = align.register(reference, reference)
    np.testing.assert_array_equal(T, np.eye(3))
    assert bool(info.success)
    assert float(info.residual) < 1e-4
    assert float(info.residual_before) < 1e-4
    assert float(info.displacement) == 0
    assert float(info.overlap) == 1


def test_the_report_says_what_was_gained():
    reference, image, _ = cases("euclidean")[0]
    T, info = align.register(reference, image)
    assert float(info.residual) < 0.1 * float(info.residual_before)
    corners = jnp.asarray([[0.0, 0.0], [0.0, 95.0], [95.0, 0.0], [95.0, 95.0]])
    moved = transform.apply(T, corners) - corners
    wanted = jnp.mean(jnp.sqrt(jnp.sum(moved**2, axis=1)))
    np.testing.assert_allclose(info.displacement, wanted, rtol=1e-3)
    assert not bool(info.implausible)


def senseless():
    reference, image, _ = cases("euclidean")[0]
    flat = np.full_like(reference, 77.0)
    hole = image.copy()
    hole[40, 40] = np.nan
    endless = image.copy()
    endless[0, 0] = np.inf
    return {
        "constant image": (reference, flat),
        "constant reference": (flat, image),
        "NaN in the image": (reference, hole),
        "NaN in the reference": (hole, image),
        "infinite pixel": (reference, endless),
        "negative": (reference, 255 - image),
    }


@pytest.mark.parametrize("coarse", [False, True])
def test_senseless_pairs_give_the_identity_and_say_so(coarse):
    for name, (reference, image) in senseless().items():
        T, info = align.register(reference, image, coarse=coarse)
        if name == "negative":  # May find something, must not find nonsense.
            assert np.isfinite(T).all()
            continue
        np.testing.assert_array_equal(T, np.eye(3), err_msg=name)
        assert not bool(info.success), name
        warped, _ = align.warp(image, T, reference.shape)
        assert np.isfinite(warped).all(), name


def test_images_of_other_sizes_are_registered_in_pixels_of_their_own():
    reference, image, T = cases("euclidean")[1]
    part = reference[20:76, 24:80]
    into_part = np.array([[1, 0, 24], [0, 1, 20], [0, 0, 1.0]])
    wide = np.pad(image, ((0, 0), (0, 9)), mode="edge")
    start, info = align.register(part, wide, coarse=True)
    assert bool(info.success)
    wanted = jnp.asarray(T @ into_part, jnp.float32)
    assert float(align.end_point_error(start, wanted, part.shape)) < 0.1


@pytest.mark.parametrize("size", [(97, 70), (16, 17)])
def test_odd_and_small_sizes_work(size):
    image = gaussian_filter(data.camera()[100:300, 100:300].astype(np.float32), 2)
    reference, moved = image[: size[0], : size[1]], image[1:, 1:]
    moved = moved[: size[0], : size[1]]
    T, info = align.register(reference, moved, motion="translation")
    assert bool(info.success)
    np.testing.assert_allclose(T[:2, 2], [-1, -1], atol=0.1)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"motion": "rigid"}, "motion"),
        ({"robust": "huber"}, "robust"),
        ({"gradient": "sobel"}, "gradient"),
    ],
)
def test_unknown_options_are_refused(options, word):
    image = np.zeros((32, 32), np.float32)
    with pytest.raises(ValueError, match=word):
        align.register(image, image, **options)


def test_tiny_images_are_refused():
    with pytest.raises(ValueError, match="16 pixels"):
        align.register(np.zeros((15, 40), np.float32), np.zeros((40, 40), np.float32))


def small(angles=(0.05, 0.0, -0.1)):
    """A small reference, of one level, and moved versions of it."""
    image = gaussian_filter(data.camera()[60:260:4, 160:360:4].astype(np.float32), 0.5)
    make = functools.partial(transform.euclidean, shape=image.shape)
    moved = [align.warp(image, make(a, (1.0, 0.5)), image.shape)[0] for a in angles]
    return image, np.stack(moved)


def test_a_batch_is_a_loop_and_compiles_once():
    reference, batch = small()
    before = registration._register._jitted._cache_size()
    Ts, info = align.register_batch(reference, batch)
    align.register_batch(reference + 1, batch[::-1])
    assert registration._register._jitted._cache_size() <= before + 1
    side_by_side = align.Options(batch_size=2)
    again, _ = align.register_batch(reference, batch, options=side_by_side)
    np.testing.assert_allclose(again, Ts, atol=1e-3)
    for i in range(3):
        T, alone = align.register(reference, batch[i])
        np.testing.assert_allclose(T, Ts[i], atol=1e-3)
        assert bool(alone.success) == bool(info.success[i])


def test_a_mask_hides_what_moves_on_its_own():
    reference, image, T = cases("euclidean")[2]
    mask = np.ones(reference.shape, bool)
    mask[:, :30] = False
    spoiled = reference.copy()
    spoiled[:, :26] = 255 - spoiled[:, :26]  # The filter of the gradient reaches 2.
    found, info = align.register(spoiled, image, mask=mask, robust="quadratic")
    assert bool(info.success)
    truth = jnp.asarray(T, jnp.float32)
    assert float(align.end_point_error(found, truth, reference.shape)) < 0.1


def test_float64_registers_in_float64(x64):
    reference, (image, *_) = small()
    found, info = align.register(reference.astype(float), image.astype(float))
    assert found.dtype == jnp.float64
    assert info.residual.dtype == jnp.float64
    truth = transform.inverse(
        transform.euclidean(0.05, (1.0, 0.5), shape=reference.shape)
    )
    assert float(align.end_point_error(found, truth, reference.shape)) < 0.1


def thing(kind="comma", side=SIDE):
    """A dark object on a bright ground: a comma, or a nut of six corners."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    r, phi = np.hypot(x, y) / side, np.arctan2(y, x)
    if kind == "nut":
        solid = (r < 0.3 + 0.03 * np.cos(6 * phi)) & (r > 0.12)
    else:
        solid = (np.hypot(x / side + 0.15, y / side) < 0.16) | (
            (abs(y / side) < 0.05) & (abs(x / side) < 0.36)
        )
    return gaussian_filter(np.where(solid, 60.0, 200.0), 1.2).astype(np.float32)


@pytest.mark.parametrize("angle", [-170.0, -95.0, 40.0, 130.0, 179.0])
def test_any_turn_and_a_large_shift_are_found(angle):
    reference = thing()
    R = transform.euclidean(np.deg2rad(angle), (7.0, -9.0), shape=reference.shape)
    moved, _ = align.warp(reference, R, reference.shape)
    T, info = align.register(reference, moved, coarse=True)
    assert bool(info.success)
    gap = align.end_point_error(T, transform.inverse(R), reference.shape)
    assert float(gap) < 0.1


@pytest.mark.parametrize("angle", [-25.0, -10.0, 8.0, 24.0])
def test_a_symmetric_object_takes_the_smallest_of_its_turns(angle):
    reference = thing("nut")
    R = transform.euclidean(np.deg2rad(angle), (3.0, 2.0), shape=reference.shape)
    rng = np.random.default_rng(0)
    moved, _ = align.warp(reference, R, reference.shape)
    moved = moved + rng.normal(0, 3, moved.shape).astype(np.float32)
    T, _ = align.register(reference, moved, coarse=True)
    found = np.rad2deg(np.arctan2(T[1, 0], T[0, 0]))
    assert abs(found + angle) < 0.5


def test_coarse_search_puts_the_right_turn_first():
    reference = thing()
    R = transform.euclidean(np.deg2rad(75.0), (10.0, 5.0), shape=reference.shape)
    moved, _ = align.warp(reference, R, reference.shape)
    motions, scores = align.coarse_search(reference, moved, num_starts=3)
    gap = align.end_point_error(motions[0], transform.inverse(R), reference.shape)
    assert float(gap) < 3
    assert float(scores[0]) > 0.9
    assert np.all(np.diff(scores) <= 0)
    with pytest.raises(ValueError, match="num_starts"):
        align.coarse_search(reference, moved, num_starts=0)
    with pytest.raises(ValueError, match="max_shift"):
        align.coarse_search(reference, moved, max_shift=0.0)


def test_registration_may_be_mapped():
    reference, batch = small()
    Ts, _ = jax.vmap(lambda one: align.register(reference, one))(jnp.asarray(batch))
    alone, _ = align.register_batch(reference, batch)
    np.testing.assert_allclose(Ts, alone, atol=1e-3)
