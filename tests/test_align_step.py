"""The inverse compositional step, its parts, and the twin in loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles_align import FILTERS, motion_jacobian, motion_matrix, step, weight
from scipy.ndimage import gaussian_filter

from gladjax.align import inverse_compositional, pyramid, robust, transform

MOTIONS = ("translation", "euclidean", "similarity", "affine", "homography")


def bumpy(seed, shape):
    noise = np.random.default_rng(seed).normal(size=shape)
    smooth = gaussian_filter(noise, 2.0)
    return 128 + 60 * smooth / smooth.std()


def one_step(reference, image, T, *, motion, error, gradient, border, scale):
    """The same step by the package, from pixels to units and back."""
    h, w = reference.shape
    centre, unit = ((w - 1) / 2, (h - 1) / 2), max(h, w) / 2
    N = np.array([[1, 0, -centre[0]], [0, 1, -centre[1]], [0, 0, unit]]) / unit
    scheme = pyramid.find(gradient)
    level = inverse_compositional.prepare(
        jnp.asarray(reference),
        jnp.ones(reference.shape, bool),
        motion=motion,
        scheme=scheme,
        frame=(centre, unit, 1.0),
        border=border,
        max_points=None,
    )
    dtype = level.values.dtype
    progress = inverse_compositional.Progress(
        jnp.asarray(N @ T @ np.linalg.inv(N) - np.eye(3), dtype),
        jnp.asarray(scale, dtype),
        jnp.asarray(jnp.inf, dtype),
        jnp.asarray(0, jnp.int32),
    )
    after = inverse_compositional.advance(
        level,
        pyramid.smooth(jnp.asarray(image), scheme),
        progress,
        motion=motion,
        error=robust.find(error),
        border=border,
        schedule=(0.9, 5.0, 3.0),
    )
    found = np.linalg.inv(N) @ (np.eye(3) + np.asarray(after.excess)) @ N
    return found / found[2, 2]


START = np.array([[1.01, -0.02, 0.7], [0.03, 0.98, -0.4], [1e-4, -2e-4, 1.0]])


@pytest.mark.parametrize("motion", MOTIONS)
@pytest.mark.parametrize("gradient", list(FILTERS))
def test_step_matches_the_twin(x64, motion, gradient):
    reference, image = bumpy(0, (15, 18)), bumpy(1, (17, 16))
    options = {"motion": motion, "gradient": gradient, "border": 3, "scale": 40.0}
    wanted = step(reference, image, START, error="lorentzian", **options)
    found = one_step(reference, image, START, error="lorentzian", **options)
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("error", list(robust.ERRORS))
def test_step_matches_the_twin_for_every_error_function(x64, error):
    reference = bumpy(0, (15, 18))
    image = reference + bumpy(1, (15, 18)) / 9
    options = {"motion": "affine", "gradient": "central", "border": 2, "scale": 15.0}
    wanted = step(reference, image, START, error=error, **options)
    found = one_step(reference, image, START, error=error, **options)
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("error", list(robust.ERRORS))
def test_weights_are_the_derivatives_in_closed_form(error):
    s2 = np.array([0.0, 1.0, 24.0, 26.0, 1e4], np.float32)
    found = robust.weight(robust.find(error), jnp.asarray(s2), jnp.float32(5.0))
    wanted = [weight(error, float(v), 5.0) for v in s2]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


@pytest.mark.parametrize("motion", MOTIONS)
def test_increments_and_jacobians_match_the_table(rng, motion):
    size = len(transform.generators(motion))
    p = rng.normal(scale=0.1, size=size).astype(np.float32)
    E = transform.increment(motion, jnp.asarray(p))
    np.testing.assert_allclose(np.eye(3) + E, motion_matrix(motion, p), atol=1e-6)
    points = rng.normal(size=(4, 2)).astype(np.float32)
    J = transform.jacobian(motion, jnp.asarray(points))
    wanted = [motion_jacobian(motion, *point) for point in points]
    np.testing.assert_allclose(J, np.stack(wanted), rtol=1e-5, atol=1e-5)

    def moved(parameters):
        excess = transform.increment(motion, parameters)
        return transform.displacement(excess, jnp.asarray(points))[0]

    by_autodiff = jax.jacfwd(moved)(jnp.zeros(size, jnp.float32))
    np.testing.assert_allclose(J, by_autodiff, rtol=1e-5, atol=1e-5)


def test_retract_is_composition_with_the_inverse(rng, x64):
    U = jnp.asarray(rng.normal(scale=0.1, size=(3, 3)))
    U = U.at[2, 2].set(0.0)
    E = transform.increment("homography", jnp.asarray(rng.normal(scale=0.1, size=8)))
    T = (np.eye(3) + U) @ np.linalg.inv(np.eye(3) + E)
    found = np.eye(3) + transform.retract(U, E)
    np.testing.assert_allclose(found, T / T[2, 2], rtol=1e-12, atol=1e-12)
    unmoved = transform.retract(U, jnp.zeros((3, 3)))
    np.testing.assert_array_equal(unmoved, U)


def test_inverse_and_compose_undo_each_other(rng, x64):
    T = jnp.eye(3) + jnp.asarray(rng.normal(scale=0.1, size=(3, 3)))
    product = transform.compose(T, transform.inverse(T))
    np.testing.assert_allclose(product, np.eye(3), atol=1e-12)


def test_rescale_agrees_with_moving_the_points(rng, x64):
    T = transform.euclidean(0.3, (2.0, -1.0), shape=(40, 60))
    big = transform.rescale(T, reference=(2.0, 3.0), image=(4.0, 0.5))
    p = jnp.asarray(rng.uniform(0, 40, (5, 2)))
    grow = lambda p, fy, fx: (p + 0.5) * jnp.asarray([[fx, fy]]) - 0.5  # noqa: E731
    wanted = grow(transform.apply(T, p), 4.0, 0.5)
    np.testing.assert_allclose(transform.apply(big, grow(p, 2.0, 3.0)), wanted)


@pytest.mark.parametrize("gradient", list(FILTERS))
def test_gradient_of_a_ramp_is_constant_and_smoothing_keeps_it(gradient):
    scheme = pyramid.find(gradient)
    y, x = jnp.meshgrid(jnp.arange(16.0), jnp.arange(16.0), indexing="ij")
    ramp = 3 * x + 5 * y
    by_x, by_y = pyramid.gradient(ramp, scheme)
    inner = (slice(4, -4), slice(4, -4))
    gain = sum(i * v for i, v in enumerate(scheme.d))
    np.testing.assert_allclose(by_x[inner], 3 * gain, rtol=1e-4)
    np.testing.assert_allclose(by_y[inner], 5 * gain, rtol=1e-4)
    shifted = ramp + 8 * scheme.shift
    smooth = pyramid.smooth(ramp, scheme)
    np.testing.assert_allclose(smooth[inner], shifted[inner], rtol=1e-4)


def test_levels_halve_any_size_and_keep_every_second_place():
    y, x = jnp.meshgrid(jnp.arange(33.0), jnp.arange(20.0), indexing="ij")
    levels = pyramid.build(x + 2 * y, 3)
    assert [level.shape for level in levels] == [(33, 20), (17, 10), (9, 5)]
    np.testing.assert_allclose(
        levels[1][3:-3, 3:-3], (x + 2 * y)[6:-6:2, 6:-6:2], rtol=1e-5
    )


@pytest.mark.parametrize(
    ("find", "word"),
    [
        (transform.generators, "motion"),
        (robust.find, "robust"),
        (pyramid.find, "gradient"),
    ],
)
def test_unknown_names_are_refused(find, word):
    with pytest.raises(ValueError, match=f"{word} must be one of .*'nonsense'"):
        find("nonsense")
