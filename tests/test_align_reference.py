"""The choice of a reference, of alignment itself, and of motions that are believed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage import data

from gladjax import align
from gladjax.align import plausible, transform
from gladjax.experiments import alignment

SHAPE = (96, 96)


def parts(number, seed=0):
    """Pictures of one product, each shifted and turned a little, and noisy."""
    rng = np.random.default_rng(seed)
    product = gaussian_filter(data.astronaut()[:192, 128:320].mean(-1), 1.5)[::2, ::2]
    images = []
    for _ in range(number):
        shift = jnp.asarray(rng.uniform(-4, 4, 2), jnp.float32)
        R = transform.euclidean(rng.uniform(-0.1, 0.1), shift, shape=SHAPE)
        moved, _ = align.warp(product.astype(np.float32), R, SHAPE)
        images.append(np.asarray(moved) + rng.normal(0, 2, SHAPE))
    return np.stack(images).astype(np.float32)


def test_the_reference_is_not_the_odd_one_out():
    images = parts(6)
    images[0, 20:70, 20:70] = 255 - images[0, 20:70, 20:70]
    chosen = align.choose_reference(jax.random.key(0), images)
    assert chosen != 0
    assert chosen == align.choose_reference(jax.random.key(0), images)


def test_alignment_is_chosen_for_products_and_not_for_textures():
    product = parts(6)
    choice = align.decide(product[0], product[1:])
    assert choice.align
    assert all(reason.startswith("for: ") for reason in choice.reasons)
    grass, rng = data.grass(), np.random.default_rng(0)
    corners = rng.integers(0, 400, (6, 2))
    texture = np.stack([grass[y : y + 96, x : x + 96] for y, x in corners])
    choice = align.decide(texture[0], texture[1:])
    assert not choice.align
    assert any(reason.startswith("against: ") for reason in choice.reasons)


def test_what_does_not_move_gains_nothing():
    product = parts(1)
    assert not align.decide(product[0], np.repeat(product, 3, axis=0)).align


def test_no_images_are_refused():
    none = np.zeros((0, *SHAPE), np.float32)
    with pytest.raises(ValueError, match="images is empty"):
        align.choose_reference(jax.random.key(0), none)
    with pytest.raises(ValueError, match="images is empty"):
        align.decide(parts(1)[0], none)
    with pytest.raises(ValueError, match="transforms is empty"):
        align.motion_range(jnp.zeros((0, 3, 3)), shape=SHAPE)


def motions(angles, shifts, shape=SHAPE):
    make = functools.partial(transform.euclidean, shape=shape)
    pairs = zip(angles, shifts, strict=True)
    return jnp.stack([make(a, jnp.asarray(s)) for a, s in pairs])


def test_coordinates_read_back_a_motion(rng):
    angle, (x, y) = rng.uniform(-3, 3), rng.uniform(-9, 9, 2)
    T = transform.euclidean(angle, (x, y), shape=(40, 60))
    wanted = [x / 60, y / 60, angle, 0, 0, 0, 0, 0]
    found = plausible.coordinates(T, shape=(40, 60))
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    grown = T.at[:2, :2].multiply(1.1)
    found = plausible.coordinates(grown, shape=(40, 60))
    np.testing.assert_allclose(found[3], np.log(1.1), atol=1e-5)
    np.testing.assert_allclose(found[4:], 0, atol=1e-5)


def test_motions_like_those_of_training_are_plausible_and_others_are_not(rng):
    shifts = rng.uniform(-5, 5, (20, 2))
    train = motions(rng.uniform(-0.1, 0.1, 20), shifts)
    known = align.motion_range(train, shape=SHAPE)
    assert all(bool(align.is_plausible(known, T)) for T in train)
    strange = motions([0.0, 0.8, 3.1], [(30.0, 0.0), (0.0, 0.0), (0.0, 0.0)])
    assert not any(bool(align.is_plausible(known, T)) for T in strange)
    bigger = jnp.diag(jnp.asarray([1.3, 1.3, 1.0]))
    assert not bool(align.is_plausible(known, bigger))
    assert not bool(align.is_plausible(known, jnp.full((3, 3), jnp.nan)))


def test_angles_are_a_circle(rng):
    around = motions([3.1, -3.1, 3.0], np.zeros((3, 2)))
    known = align.motion_range(around, shape=SHAPE)
    across = motions([np.pi, 0.0], np.zeros((2, 2)))
    assert bool(align.is_plausible(known, across[0]))
    assert not bool(align.is_plausible(known, across[1]))
    everywhere = motions(rng.uniform(-np.pi, np.pi, 30), np.zeros((30, 2)))
    known = align.motion_range(everywhere, shape=SHAPE)
    for angle in np.linspace(-3, 3, 13):
        assert bool(align.is_plausible(known, motions([angle], [(0.0, 0.0)])[0]))


def test_judging_reports_a_motion_of_its_own():
    images = parts(5)
    Ts, info = align.register_batch(images[0], images)
    known = align.motion_range(Ts, shape=SHAPE)
    judged = jax.vmap(functools.partial(align.judge, known))(Ts, info)
    assert not judged.implausible.any()
    far = transform.euclidean(0.0, (18.0, 0.0), shape=SHAPE)
    misplaced, _ = align.warp(images[0], far, SHAPE)
    T, info = align.register(images[0], misplaced)
    assert bool(info.success)
    assert not bool(info.implausible)
    assert bool(align.judge(known, T, info).implausible)


def test_screws_at_any_angle_come_back(mvtec_root):
    screws = alignment.load(mvtec_root / "screw" / "train" / "good", number=12, side=96)
    found = alignment.any_rotation(screws, max_shift=0.04)
    assert found["success_moved"] == 1
    assert found["within_2_pixels"] >= 10 / 12


def test_misplaced_transistors_are_reported_and_good_ones_are_not(mvtec_root):
    root = mvtec_root / "transistor"
    load = functools.partial(alignment.load, side=128)
    train = load(root / "train" / "good", number=30)
    Ts, info = align.register_batch(train[0], train)
    known = align.motion_range(Ts[np.asarray(info.success)], shape=(128, 128))
    reported = {}
    for kind in ("good", "misplaced"):
        test = load(root / "test" / kind, number=10)
        Ts, info = align.register_batch(train[0], np.resize(test, train.shape))
        judged = jax.vmap(functools.partial(align.judge, known))(Ts, info)
        reported[kind] = int(np.sum((judged.implausible | ~judged.success)[:10]))
    assert reported["good"] <= 1
    assert reported["misplaced"] >= 3
