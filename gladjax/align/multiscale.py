"""One image against one prepared reference, from coarse to fine.

The reference is prepared once (`prepare`); each image then runs through the levels
(`align`), from the identity or from the best of the starts of the coarse search.

Notation: as in `inverse_compositional`; level 0 is the finest.

Differs from the reference in: (1) the outcome is judged, and a failure is the identity;
(2) of many starts the one of least robust error wins, ties go to the least motion; (3)
coarse levels stop at a fiftieth of their pixel, the tolerance is for the finest; (4) a
motion below a ten-thousandth of a pixel is none.

Reference: Briand, Facciolo, Sanchez. "Improvements of the Inverse Compositional
Algorithm for Parametric Motion Estimation". IPOL 8, 2018, algorithm 4.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool

from gladjax.align import coarse, inverse_compositional, pyramid, transform
from gladjax.align.inverse_compositional import Level, Progress
from gladjax.align.plan import AlignInfo, Options, Plan

__all__ = ["Prepared", "align", "prepare"]


class Prepared(NamedTuple):
    """The reference: its levels, the turned copies, and whether it has texture."""

    levels: list[Level]
    turned: coarse.Turned | None
    textured: Bool[Array, ""]


def prepare(reference: Array, mask: Array, plan: Plan) -> Prepared:
    """Returns everything that depends on the reference alone."""
    options = plan.options
    finite = jnp.isfinite(reference)
    grey = pyramid.grey(jnp.where(finite, reference, 0))
    images = pyramid.build(grey, plan.num_levels)
    levels = [
        inverse_compositional.prepare(
            image,
            mask[:: 2**i, :: 2**i],
            motion=plan.motion,
            scheme=plan.scheme,
            frame=(*plan.frame, 2.0**i),
            border=options.border_at(i),
            max_points=options.max_points,
        )
        for i, image in enumerate(images)
    ]
    J = levels[0].jacobian[:, :2] / levels[0].unit
    energy = jnp.sum(jnp.where(levels[0].counted[:, None], jnp.square(J), 0))
    count = jnp.sum(levels[0].counted.astype(J.dtype))
    textured = jnp.all(finite) & (energy > 1e-3 * jnp.maximum(count, 1))
    turned = None
    if plan.coarse:
        i = plan.search_level
        small = plan.level_shapes(i)[1]
        turned = coarse.turn(
            images[i],
            mask[:: 2**i, :: 2**i],
            small,
            num_angles=options.num_angles,
            max_shift=options.max_shift,
        )
    return Prepared(levels, turned, textured)


class _Errors(NamedTuple):
    """How well one motion explains an image, on one level."""

    robust: Array
    residual: Array
    overlap: Array


def _errors(
    prepared: Prepared,
    images: list[Array],
    excesses: Array,
    plan: Plan,
    *,
    i: int,
    scale: float | None = None,
) -> _Errors:
    """Returns the errors of several motions; they share one scale.

    Without a scale, it follows the mean absolute difference of the first motion.
    """
    level, border, options = prepared.levels[i], plan.options.border_at(i), plan.options
    differences = jax.vmap(
        lambda U: inverse_compositional.residuals(level, images[i], U, border=border)
    )
    D, inside = differences(excesses)
    number = jnp.sum(inside.astype(D.dtype), axis=1)
    count = jnp.maximum(number, 1)
    residual = jnp.sum(jnp.abs(D), axis=1) / count
    if scale is None:
        shared = jnp.maximum(options.scale_spread * residual[0], options.scale_end)
    else:
        shared = jnp.asarray(scale, D.dtype)
    rho = plan.error(jnp.square(D).ravel(), shared).reshape(D.shape)
    robust = jnp.sum(jnp.where(inside, rho, 0), axis=1) / count
    counted = jnp.maximum(jnp.sum(level.counted.astype(D.dtype)), 1)
    return _Errors(robust, residual, number / counted)


def _refine(
    prepared: Prepared, images: list[Array], progress: Progress, plan: Plan, i: int
) -> Progress:
    """Returns the motion after the iterations of level ``i``."""
    options = plan.options
    return inverse_compositional.refine(
        prepared.levels[i],
        images[i],
        progress,
        motion=plan.motion,
        error=plan.error,
        border=options.border_at(i),
        schedule=plan.schedule,
        stop=(options.max_steps, options.tolerance if i == 0 else 0.02),
    )


def _start(excess: Array, options: Options) -> Progress:
    """Returns the state before the first iteration."""
    dtype = excess.dtype
    return Progress(
        excess,
        jnp.asarray(options.scale_start, dtype),
        jnp.asarray(jnp.inf, dtype),
        jnp.asarray(0, jnp.int32),
    )


def _best_start(
    prepared: Prepared,
    turned: coarse.Turned,
    greys: list[Array],
    images: list[Array],
    plan: Plan,
) -> Progress:
    """Returns the refined start of least robust error, ties to the least motion."""
    options, i = plan.options, plan.search_level
    motions, _ = coarse.search(
        turned,
        greys[i],
        plan.level_shapes(i)[0],
        num_starts=options.num_starts,
        max_shift=options.max_shift,
    )
    to_unit, from_unit = plan.frames(greys[0].dtype, i)
    changed = jnp.einsum(
        "ab,kbc,cd->kad", to_unit, motions, from_unit, precision="highest"
    )
    excesses = changed - jnp.eye(3, dtype=changed.dtype)[None]
    excesses = jnp.concatenate([excesses, jnp.zeros_like(excesses[:1])])
    starts = jax.vmap(lambda excess: _start(excess, options))(excesses)
    progress, scores = _refine_all(prepared, images, starts, plan, i)
    motion = jax.vmap(lambda excess: _corner_motion(excess, plan))(progress.excess)
    best = jnp.argmin(jnp.where(_tied(scores, plan), motion, jnp.inf))
    return jax.tree.map(lambda leaf: leaf[best], progress)


def _tied(scores: Array, plan: Plan) -> Array:
    """Returns which starts are as good as the best, within ``tie``.

    Errors are compared as differences of grey levels, by their square roots.
    """
    fraction, levels = plan.options.tie
    scale = jnp.asarray(plan.options.search_scale, scores.dtype)
    none, least = plan.error(jnp.asarray([0.0, levels**2], scores.dtype), scale)
    size = jnp.sqrt(jnp.maximum(scores - none, 0))
    return size <= (1 + fraction) * jnp.min(size) + jnp.sqrt(least - none)


def _best_slide(
    prepared: Prepared, images: list[Array], progress: Progress, plan: Plan, i: int
) -> Progress:
    """Returns the motion after trying shifts along the weakest direction.

    Repeated detail, such as a thread, gives each pitch its own minimum, and a level
    that does not resolve the pitch cannot tell which is right. The pitches follow each
    other in the direction in which the coarsest level is least determined, the
    eigenvector of the least eigenvalue of its ``H`` for shifts.
    """
    coarsest, reach = prepared.levels[-1], plan.options.slide
    J = jnp.where(coarsest.counted[:, None], coarsest.jacobian[:, :2], 0)
    _, vectors = jnp.linalg.eigh(jnp.matmul(J.T, J, precision="highest"))
    direction = vectors[:, 0] / prepared.levels[i].unit

    def slid(number: Array) -> Progress:
        E = jnp.zeros((3, 3), J.dtype).at[:2, 2].set(number * direction)
        return progress._replace(excess=transform.retract(progress.excess, E))

    numbers = jnp.arange(-reach, reach + 1).astype(J.dtype)
    starts = jax.vmap(slid)(numbers)
    found, scores = _refine_all(prepared, images, starts, plan, i)
    best = jnp.argmin(scores)
    return jax.tree.map(lambda leaf: leaf[best], found)


def _refine_all(
    prepared: Prepared, images: list[Array], starts: Progress, plan: Plan, i: int
) -> tuple[Progress, Array]:
    """Returns all starts refined on level ``i`` and their robust errors."""
    options = plan.options

    found = jax.vmap(lambda start: _refine(prepared, images, start, plan, i))(starts)
    scale = options.search_scale
    errors = _errors(prepared, images, found.excess, plan, i=i, scale=scale)
    enough = errors.overlap >= options.min_overlap
    return found, jnp.where(enough, errors.robust, jnp.inf)


def _corner_motion(excess: Array, plan: Plan) -> Array:
    """Returns the mean movement of the corners of the reference, in pixels."""
    (cx, cy), unit = plan.frame
    corners = [[sx * cx / unit, sy * cy / unit] for sx in (-1, 1) for sy in (-1, 1)]
    moved, _ = transform.displacement(excess, jnp.asarray(corners, excess.dtype))
    return unit * jnp.mean(jnp.sqrt(jnp.sum(jnp.square(moved), axis=1)))


def _extreme(excess: Array, plan: Plan) -> Array:
    """Returns whether a motion is extreme in itself."""
    (cx, cy), unit = plan.frame
    linear = excess[:2, :2] + jnp.eye(2, dtype=excess.dtype)
    area = linear[0, 0] * linear[1, 1] - linear[0, 1] * linear[1, 0]
    x, y = cx + unit * excess[0, 2], cy + unit * excess[1, 2]
    h, w = plan.shapes[1]
    outside = (x < 0) | (x > w - 1) | (y < 0) | (y > h - 1)
    return (area < 0.25) | (area > 4) | outside


def align(prepared: Prepared, image: Array, plan: Plan) -> tuple[Array, AlignInfo]:
    """Returns the motion and the report for one image."""
    finite = jnp.all(jnp.isfinite(image))
    grey = pyramid.grey(jnp.where(jnp.isfinite(image), image, 0))
    greys = pyramid.build(grey, plan.num_levels)
    images = [pyramid.smooth(level, plan.scheme) for level in greys]
    none = jnp.zeros((3, 3), grey.dtype)
    options = plan.options
    if prepared.turned is not None:
        progress = _best_start(prepared, prepared.turned, greys, images, plan)
        remaining = plan.search_level
    else:
        progress = _start(none, options)
        remaining = plan.num_levels
    for i in reversed(range(remaining)):
        if plan.coarse and options.slide and i in options.slide_levels:
            progress = _best_slide(prepared, images, progress, plan, i)
        else:
            progress = _refine(prepared, images, progress, plan, i)
    still = _corner_motion(progress.excess, plan) < 1e-4
    moved = jnp.where(still, none, progress.excess)
    errors = _errors(prepared, images, jnp.stack([none, moved]), plan, i=0)
    success = finite & prepared.textured & (jnp.ptp(grey) > 1e-3)
    success &= errors.robust[1] <= errors.robust[0]
    success &= errors.overlap[1] >= options.min_overlap
    excess = jnp.where(success, moved, none)
    info = AlignInfo(
        iterations=progress.iteration,
        residual=jnp.where(success, errors.residual[1], errors.residual[0]),
        residual_before=errors.residual[0],
        overlap=errors.overlap[1],
        displacement=_corner_motion(excess, plan),
        success=success,
        implausible=_extreme(moved, plan),
    )
    to_unit, from_unit = plan.frames(grey.dtype, 0)
    change = jnp.einsum("ab,bc,cd->ad", from_unit, excess, to_unit, precision="highest")
    T = jnp.eye(3, dtype=grey.dtype) + change
    return T / T[2, 2], info
