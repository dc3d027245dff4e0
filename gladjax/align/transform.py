"""Planar motions: 3 x 3 matrices, their parameters and their derivatives.

A motion maps pixels of the reference to pixels of the image. The algorithm never adds
parameters, it composes motions; so a motion is a matrix, and parameters ``p`` only
describe the small increment ``M(p) = I + E(p)``, with ``E(0) = 0``. All loops carry the
*excess* ``U = T - I``: in float32 a displacement computed from ``U`` keeps its digits,
and no motion is exactly no motion.

Notation: a point is ``(x, y)``, integers at pixel centres; ``X = (x, y, 1)``; ``G_i``
is the derivative of ``M`` by ``p_i`` at 0; angles are in radians, positive from x to y.

Differs from the reference in: (1) the Euclidean increment is an exact rotation, the
other increments are linear in ``p``; (2) points are centred and scaled by the caller,
so that all parameters have the size of a displacement.

Reference: Briand, Facciolo, Sanchez. "Improvements of the Inverse Compositional
Algorithm for Parametric Motion Estimation". IPOL 8, 2018, table 1.
"""

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

__all__ = [
    "MOTIONS",
    "apply",
    "compose",
    "displacement",
    "end_point_error",
    "euclidean",
    "generators",
    "increment",
    "inverse",
    "jacobian",
    "rescale",
    "retract",
]

Matrix = Float[Array, "3 3"]


_SHIFTS = [[(0, 2, 1)], [(1, 2, 1)]]
_GROW = [[(0, 0, 1), (1, 1, 1)]]
_TURN = [[(0, 1, -1), (1, 0, 1)]]
_LINEAR = [[(0, 0, 1)], [(0, 1, 1)], [(1, 0, 1)], [(1, 1, 1)]]
_TILT = [[(2, 0, 1)], [(2, 1, 1)]]


def _stack(entries: list[list[tuple[int, int, int]]]) -> np.ndarray:
    """Returns matrices made of entries ``(row, column, value)``."""
    stacked = np.zeros((len(entries), 3, 3))
    for i, generator in enumerate(entries):
        for row, column, value in generator:
            stacked[i, row, column] = value
    return stacked


MOTIONS = {
    "translation": _stack(_SHIFTS),
    "euclidean": _stack(_SHIFTS + _TURN),
    "similarity": _stack(_SHIFTS + _GROW + _TURN),
    "affine": _stack(_SHIFTS + _LINEAR),
    "homography": _stack(_SHIFTS + _LINEAR + _TILT),
}


def generators(motion: str) -> np.ndarray:
    """Returns the matrices ``G_i`` of a motion, stacked.

    Args:
      motion: A key of `MOTIONS`.

    Raises:
      ValueError: If there is no such motion; the message lists them.
    """
    if motion not in MOTIONS:
        raise ValueError(f"motion must be one of {', '.join(MOTIONS)}, got {motion!r}")
    return MOTIONS[motion]


def increment(motion: str, parameters: Float[Array, " p"]) -> Matrix:
    """Returns ``E(p)``, the excess over the identity of the motion ``M(p)``.

    Args:
      motion: The family, a key of `MOTIONS`.
      parameters: One number for each generator.

    Returns:
      The excess; exactly zero for zero parameters. For the Euclidean family ``I + E``
      is a rotation and a shift, for the others it is linear in ``p``.
    """
    dtype = parameters.dtype
    if motion == "euclidean":
        shift, angle = parameters[:2], parameters[2]
        drop = -2 * jnp.square(jnp.sin(angle / 2))  # cos - 1 without cancellation
        turn = jnp.sin(angle)
        top = jnp.stack([jnp.stack([drop, -turn]), jnp.stack([turn, drop])])
        E = jnp.zeros((3, 3), dtype).at[:2, :2].set(top)
        return E.at[:2, 2].set(shift)
    G = jnp.asarray(generators(motion), dtype)
    return jnp.einsum("p,pij->ij", parameters, G, precision="highest")


def jacobian(motion: str, points: Float[Array, "n 2"]) -> Float[Array, "n 2 p"]:
    """Returns the derivative of the moved points by the parameters, at 0.

    Args:
      motion: The family, a key of `MOTIONS`.
      points: Points, in the units that the parameters have.

    Returns:
      For each point the derivative of its two coordinates.

    References:
      Briand et al., table 1 (column of the Jacobians).
    """
    G = jnp.asarray(generators(motion), points.dtype)
    X = jnp.concatenate([points, jnp.ones_like(points[:, :1])], axis=1)
    moved = jnp.einsum("pij,nj->nip", G, X, precision="highest")
    return moved[:, :2] - points[:, :, None] * moved[:, 2:]


def displacement(
    excess: Matrix, points: Float[Array, "n 2"]
) -> tuple[Float[Array, "n 2"], Float[Array, " n"]]:
    """Returns how far the motion ``I + U`` moves each point.

    Args:
      excess: ``U``, the motion less the identity.
      points: The points.

    Returns:
      The displacements, exactly zero for ``U = 0``, and the homogeneous denominators;
      where these are not positive the point lies behind the horizon and its
      displacement is meaningless, though finite.
    """
    X = jnp.concatenate([points, jnp.ones_like(points[:, :1])], axis=1)
    UX = jnp.einsum("ij,nj->ni", excess, X, precision="highest")
    depth = 1 + UX[:, 2]
    safe = jnp.where(depth > 1e-3, depth, 1)
    return (UX[:, :2] - points * UX[:, 2:]) / safe[:, None], depth


def compose(outer: Matrix, inner: Matrix) -> Matrix:
    """Returns the motion ``p -> outer(inner(p))``, scaled to ``T[2, 2] = 1``."""
    product = jnp.matmul(outer, inner, precision="highest")
    return product / product[2, 2]


def inverse(transform: Matrix) -> Matrix:
    """Returns the inverse motion, scaled to ``T[2, 2] = 1``.

    Args:
      transform: An invertible motion.

    Returns:
      The inverse by the adjugate: exact for the identity and for shifts. Not finite
      where there is no inverse.
    """
    adjugate = _adjugate(transform)
    return adjugate / adjugate[2, 2]


def _adjugate(A: Matrix) -> Matrix:
    """Returns the adjugate of a matrix: ``A adj(A) = det(A) I``."""
    rows = (jnp.cross(A[1], A[2]), jnp.cross(A[2], A[0]), jnp.cross(A[0], A[1]))
    return jnp.stack(rows, axis=1)


def retract(excess: Matrix, step: Matrix) -> Matrix:
    """Returns the excess of ``(I + U) (I + E)^-1``, the inverse compositional update.

    Args:
      excess: ``U``.
      step: ``E``, the excess of the increment.

    Returns:
      The new excess, with its last entry zero; exactly ``U`` for ``E = 0``.
    """
    A = jnp.eye(3, dtype=excess.dtype) + step
    adjugate = _adjugate(A)
    determinant = jnp.sum(A[0] * adjugate[:, 0])
    V = -jnp.matmul(adjugate, step, precision="highest") / determinant
    U = excess + V + jnp.matmul(excess, V, precision="highest")
    corner = U[2, 2]
    return (U - corner * jnp.eye(3, dtype=U.dtype)) / (1 + corner)


def apply(transform: Matrix, points: Float[Array, "n 2"]) -> Float[Array, "n 2"]:
    """Returns the moved points.

    Args:
      transform: A motion.
      points: Points ``(x, y)``, in pixels.

    Returns:
      The images of the points, in pixels; not finite on the horizon.
    """
    X = jnp.concatenate([points, jnp.ones_like(points[:, :1])], axis=1)
    moved = jnp.einsum("ij,nj->ni", transform, X, precision="highest")
    return moved[:, :2] / moved[:, 2:]


def euclidean(
    angle: float | Float[Array, ""],
    shift: tuple[float, float] | Float[Array, "2"],
    *,
    shape: tuple[int, ...],
) -> Matrix:
    """Returns a turn about the centre of an image, followed by a shift.

    Args:
      angle: In radians, positive from x to y.
      shift: Shift ``(x, y)``, in pixels.
      shape: Height and width of the image whose centre stays in place.

    Returns:
      The motion.

    Example:
      >>> T = euclidean(jnp.pi / 2, (0.0, 0.0), shape=(3, 3))
      >>> print(apply(T, jnp.array([[2.0, 1.0]])).round(3))
      [[1. 2.]]
    """
    angle = jnp.asarray(angle, dtype=float)
    shift = jnp.asarray(shift, dtype=angle.dtype)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    R = jnp.stack([jnp.stack([cos, -sin]), jnp.stack([sin, cos])])
    centre = jnp.asarray([(shape[1] - 1) / 2, (shape[0] - 1) / 2], angle.dtype)
    offset = shift + centre - jnp.matmul(R, centre, precision="highest")
    T = jnp.eye(3, dtype=angle.dtype)
    return T.at[:2, :2].set(R).at[:2, 2].set(offset)


def end_point_error(
    first: Matrix, second: Matrix, shape: tuple[int, int]
) -> Float[Array, ""]:
    """Returns the mean distance between two motions over the pixels of the reference.

    Args:
      first: A motion.
      second: Another one.
      shape: Height and width of the reference.

    Returns:
      The mean end-point error, in pixels.

    References:
      Briand et al., section 5.
    """
    h, w = shape
    y, x = jnp.meshgrid(jnp.arange(h), jnp.arange(w), indexing="ij")
    points = jnp.stack([x.ravel(), y.ravel()], axis=1).astype(first.dtype)
    gap = apply(first, points) - apply(second, points)
    return jnp.mean(jnp.sqrt(jnp.sum(jnp.square(gap), axis=1)))


def rescale(
    transform: Matrix,
    *,
    reference: tuple[float, float] = (1.0, 1.0),
    image: tuple[float, float] = (1.0, 1.0),
) -> Matrix:
    """Returns the same motion for resized pictures.

    Args:
      transform: A motion between a reference and an image.
      reference: Factors (height, width) by which the reference grows.
      image: The same for the image.

    Returns:
      The motion between the resized pictures. Resizing keeps the borders of an image,
      so pixel centres move by half a pixel: ``x' + 1/2 = f (x + 1/2)``.
    """

    def grow(factors: tuple[float, float]) -> Array:
        fy, fx = factors
        rows = [[fx, 0, (fx - 1) / 2], [0, fy, (fy - 1) / 2], [0, 0, 1]]
        return jnp.asarray(rows, transform.dtype)

    back = inverse(grow(reference))
    return compose(grow(image), compose(transform, back))
