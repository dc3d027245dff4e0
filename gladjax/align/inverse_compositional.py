"""The inverse compositional algorithm on one level of a pyramid.

The motion ``T`` that makes ``image(T p)`` look like ``reference(p)`` is refined by a
small motion of the *reference*, so that everything that depends on derivatives is
computed once. With ``D(p) = image(T p) - reference(p)``, ``J`` the derivative of the
reference by the parameters, and ``w`` the weights of the error function at ``D^2``::

    H = sum_p w(p) J(p)' J(p)      b = sum_p w(p) J(p)' D(p)      T <- T M(H^-1 b)^-1

until no corner of the image moves by more than the tolerance. The scale of the error
function falls from one iteration to the next. Pixels whose position leaves the image
or comes near to its border do not count.

Notation: points are pixels of the finest level, less the centre of the reference,
divided by the *unit*, half its longer side: then all parameters are of one size, and a
motion is the same on all levels. ``U = T - I`` in these units.

Differs from the reference in: (1) the tolerance is about pixels, not parameters;
(2) on levels with many pixels only the one of greatest gradient in each cell of a
regular partition counts; (3) the scale may be kept above a multiple of the mean
absolute difference; (4) ``H`` gets a ridge of 1e-6 of its mean diagonal, so that a
motion the reference cannot show is left alone.

Reference: Briand, Facciolo, Sanchez. "Improvements of the Inverse Compositional
Algorithm for Parametric Motion Estimation". IPOL 8, 2018, algorithms 2 and 3.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from gladjax.align import pyramid, robust, sampling, transform

__all__ = ["Level", "Progress", "advance", "prepare", "refine", "residuals"]

Scalar = Float[Array, ""]
Matrix = Float[Array, "3 3"]
Image = Float[Array, "_h _w"]


class Level(NamedTuple):
    """What one level of the reference contributes, computed once."""

    values: Float[Array, " n"]
    jacobian: Float[Array, "n p"]
    pixels: Float[Array, "n 2"]
    points: Float[Array, "n 2"]
    counted: Bool[Array, " n"]
    unit: Float[Array, ""]


class Progress(NamedTuple):
    """State of the loop: the motion, the scale of the error, the last movement."""

    excess: Matrix
    scale: Scalar
    movement: Scalar
    iteration: Int[Array, ""]


def prepare(
    image: Float[Array, "h w"],
    mask: Bool[Array, "h w"],
    *,
    motion: str,
    scheme: pyramid.Scheme,
    frame: tuple[tuple[float, float], float, float],
    border: int,
    max_points: int | None,
) -> Level:
    """Returns a level of the reference with its derivatives.

    Args:
      image: The level, grey, not smoothed.
      mask: Pixels that may count.
      motion: A key of `transform.MOTIONS`.
      scheme: The gradient.
      frame: Centre ``(x, y)`` and unit in pixels of the finest level, and the density
        ``2^l`` of this one.
      border: Pixels at the border that do not count.
      max_points: At most so many pixels, or None for all.

    Returns:
      The level; ``counted`` is false for pixels that do not count.
    """
    centre, unit, density = frame
    h, w = image.shape
    rows, columns = jnp.meshgrid(jnp.arange(h), jnp.arange(w), indexing="ij")
    inner = (jnp.minimum(rows, h - 1 - rows) >= border) & (
        jnp.minimum(columns, w - 1 - columns) >= border
    )
    by_x, by_y = pyramid.gradient(image, scheme)
    counted = mask & inner
    cell = 1 if max_points is None else math.ceil(math.sqrt(h * w / max_points))
    chosen = _strongest(jnp.where(counted, by_x**2 + by_y**2, -1), cell)

    def pick(array: Array) -> Array:
        return array.ravel()[chosen]

    pixels = jnp.stack([pick(columns), pick(rows)], axis=1).astype(image.dtype)
    origin = jnp.asarray(centre, image.dtype)
    points = ((pixels + scheme.shift) * density - origin[None, :]) / unit
    slopes = jnp.stack([pick(by_x), pick(by_y)], axis=1) * (unit / density)
    moved = transform.jacobian(motion, points)
    return Level(
        values=pick(pyramid.smooth(image, scheme)),
        jacobian=jnp.einsum("ni,nip->np", slopes, moved, precision="highest"),
        pixels=pixels,
        points=points,
        counted=pick(counted),
        unit=jnp.asarray(unit / density, image.dtype),
    )


def _strongest(energy: Float[Array, "h w"], cell: int) -> Int[Array, " n"]:
    """Returns the flat index of the largest value in each square cell."""
    h, w = energy.shape
    rows, columns = h // cell, w // cell
    index = jnp.arange(h * w).reshape(h, w)

    def split(array: Array) -> Array:
        part = array[: rows * cell, : columns * cell]
        blocks = part.reshape(rows, cell, columns, cell).swapaxes(1, 2)
        return blocks.reshape(rows * columns, cell * cell)

    best = jnp.argmax(split(energy), axis=1)
    return jnp.take_along_axis(split(index), best[:, None], axis=1)[:, 0]


def residuals(
    level: Level, image: Image, excess: Matrix, *, border: int
) -> tuple[Float[Array, " n"], Bool[Array, " n"]]:
    """Returns the differences ``D`` and the pixels that count.

    Args:
      level: A level of the reference.
      image: The same level of the image, smoothed.
      excess: The motion less the identity.
      border: Distance from the border of the image below which nothing counts.

    Returns:
      Differences in grey levels, zero where they do not count, and the mask.
    """
    h, w = image.shape
    shift, depth = transform.displacement(excess, level.points)
    moved = level.pixels + shift * level.unit
    x, y = moved[:, 0], moved[:, 1]
    inside = (x >= border) & (x <= w - 1 - border)
    inside &= (y >= border) & (y <= h - 1 - border)
    inside &= (depth > 1e-3) & level.counted
    x, y = jnp.where(inside, x, 0), jnp.where(inside, y, 0)
    difference = sampling.bicubic(image, x, y) - level.values
    return jnp.where(inside, difference, 0), inside


def advance(
    level: Level,
    image: Image,
    progress: Progress,
    *,
    motion: str,
    error: robust.ErrorFunction,
    border: int,
    schedule: tuple[float, float, float],
) -> Progress:
    """Returns the motion after one iteration.

    Args:
      level: A level of the reference.
      image: The same level of the image, smoothed.
      progress: The state before.
      motion: A key of `transform.MOTIONS`.
      error: The error function.
      border: As for `residuals`.
      schedule: Factor of the scale per iteration, its least value, and the multiple of
        the mean absolute difference below which it does not count.

    Returns:
      The state after. The movement counts as infinite while the scale still falls;
      where the step is not finite the motion stays and the movement is zero.

    References:
      Briand et al., algorithm 2, lines 6 to 12.
    """
    D, inside = residuals(level, image, progress.excess, border=border)
    decay, least, spread = schedule
    number = jnp.maximum(jnp.sum(inside.astype(D.dtype)), 1)
    floor = jnp.maximum(least, spread * jnp.sum(jnp.abs(D)) / number)
    scale = jnp.maximum(progress.scale, floor)
    weights = robust.weight(error, jnp.square(D), scale)
    weights = jnp.where(inside, weights, 0)
    weights = weights / jnp.maximum(jnp.max(weights), 1e-30)
    J = level.jacobian
    WJ = weights[:, None] * J
    H = jnp.matmul(WJ.T, J, precision="highest")
    b = jnp.matmul(WJ.T, D, precision="highest")
    delta = _solve(H, b)
    E = transform.increment(motion, delta)
    U = transform.retract(progress.excess, E)
    corners = jnp.asarray([[-1, -1], [-1, 1], [1, -1], [1, 1]], D.dtype)
    moved, _ = transform.displacement(E, corners)
    movement = level.unit * jnp.sqrt(jnp.max(jnp.sum(jnp.square(moved), axis=1)))
    sound = jnp.all(jnp.isfinite(U)) & jnp.isfinite(movement)
    return Progress(
        excess=jnp.where(sound, U, progress.excess),
        scale=jnp.maximum(progress.scale * decay, least),
        movement=jnp.where(scale > floor, jnp.inf, jnp.where(sound, movement, 0)),
        iteration=progress.iteration + 1,
    )


def _solve(H: Float[Array, "p p"], b: Float[Array, " p"]) -> Float[Array, " p"]:
    """Returns ``H^-1 b`` for a nonnegative matrix, with a ridge."""
    size = jnp.trace(H) / H.shape[0]
    ridge = 1e-6 * size + jnp.finfo(H.dtype).tiny * 1e8
    A = H + ridge * jnp.eye(H.shape[0], dtype=H.dtype)
    factor = jax.scipy.linalg.cho_factor(A, lower=True)
    return jax.scipy.linalg.cho_solve(factor, b)


def refine(
    level: Level,
    image: Image,
    progress: Progress,
    *,
    motion: str,
    error: robust.ErrorFunction,
    border: int,
    schedule: tuple[float, float, float],
    stop: tuple[int, float],
) -> Progress:
    """Returns the motion after as many iterations as one level needs.

    Args:
      level: A level of the reference.
      image: The same level of the image, smoothed.
      progress: The state of the coarser level.
      motion: A key of `transform.MOTIONS`.
      error: The error function.
      border: As for `residuals`.
      schedule: As for `advance`.
      stop: Most iterations, and the movement in pixels of the level that ends the
        loop.

    Returns:
      The last state, with the iterations of all levels so far.
    """
    first = progress.iteration

    def unfinished(state: Progress) -> Bool[Array, ""]:
        return (state.iteration - first < stop[0]) & (state.movement > stop[1])

    def body(state: Progress) -> Progress:
        return advance(
            level,
            image,
            state,
            motion=motion,
            error=error,
            border=border,
            schedule=schedule,
        )

    start = progress._replace(movement=jnp.full_like(progress.movement, jnp.inf))
    return jax.lax.while_loop(unfinished, body, start)
