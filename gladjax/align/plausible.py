"""Motions of the training images, and motions that do not belong to them.

Alignment must not repair what is wrong: a part that was placed far off is found by its
motion, even if the warped image looks normal. So the motions of the training images
give a range, and a motion outside it is reported.

Notation: a motion has eight *coordinates*: the shift of the centre of the reference, as
a fraction of its longer side (x, y); the angle; the logarithm of the scale; stretch and
shear, from the symmetric part of the linear map; and the two terms of perspective, in
units of half the longer side.

Differs from the reference in: (1) the paper does not judge motions.

Reference: none; the range of a sample, widened by a part of its own width.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float

from gladjax.align.plan import AlignInfo
from gladjax.pytree import pytree, static

__all__ = ["MotionRange", "coordinates", "is_plausible", "judge", "motion_range"]

AnyArray = Array | np.ndarray

# Least widening of each coordinate: two percent of a side, three degrees, and so on.
_SLACK = (0.02, 0.02, 0.05, 0.03, 0.03, 0.03, 0.03, 0.03)


@pytree
class MotionRange:
    """Range of the coordinates of training motions.

    Attributes:
      low: Least value of each coordinate.
      high: Largest value. Angles are counted from ``angle``.
      angle: Direction in the middle of the training angles, in radians.
      shape: Height and width of the reference.
    """

    low: Float[Array, "8"]
    high: Float[Array, "8"]
    angle: Float[Array, ""]
    shape: tuple[int, int] = static()


def coordinates(
    transform: Float[Array, "3 3"], *, shape: tuple[int, int]
) -> Float[Array, "8"]:
    """Returns the eight coordinates of a motion.

    Args:
      transform: The motion, from reference to image.
      shape: Height and width of the reference.

    Returns:
      Shift (x, y), angle, log scale, stretch, shear, perspective (x, y).
    """
    h, w = shape
    unit = max(h, w) / 2
    dtype = transform.dtype
    to_unit = jnp.asarray(
        [[1, 0, -(w - 1) / 2], [0, 1, -(h - 1) / 2], [0, 0, unit]], dtype
    )
    back = jnp.asarray([[unit, 0, (w - 1) / 2], [0, unit, (h - 1) / 2], [0, 0, 1]])
    T = jnp.matmul(to_unit, jnp.matmul(transform, back.astype(dtype))) / unit
    T = T / T[2, 2]
    a, b, c, d = T[0, 0], T[0, 1], T[1, 0], T[1, 1]
    angle = jnp.arctan2(c - b, a + d)
    scale = jnp.log(jnp.maximum(jnp.abs(a * d - b * c), 1e-12)) / 2
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    stretch = ((cos * a + sin * c) - (cos * d - sin * b)) / 2
    shear = cos * b + sin * d
    values = (T[0, 2] / 2, T[1, 2] / 2, angle, scale, stretch, shear, T[2, 0], T[2, 1])
    return jnp.stack(values)


def motion_range(
    transforms: Float[AnyArray, "n 3 3"],
    *,
    shape: tuple[int, int],
    widen: float = 0.25,
) -> MotionRange:
    """Returns the range of the motions of training images.

    Args:
      transforms: The motions of registrations that succeeded.
      shape: Height and width of the reference.
      widen: Part of the width of each range that is added on both sides.

    Returns:
      The range. The angles lie in the shortest arc that holds all of them; where that
      arc is longer than half a turn, every angle is plausible.

    Raises:
      ValueError: If there are no motions.
    """
    if transforms.shape[0] == 0:
        raise ValueError("transforms is empty: there is no range of motions")
    array = jnp.asarray(transforms)
    values = np.array(jax.vmap(lambda T: coordinates(T, shape=shape))(array))
    angles = np.sort(values[:, 2])
    gaps = np.diff(np.append(angles, angles[0] + 2 * np.pi))
    widest = int(np.argmax(gaps))
    arc = 2 * np.pi - gaps[widest]
    middle = angles[(widest + 1) % len(angles)] + arc / 2
    values[:, 2] = _wrap(values[:, 2] - middle)
    low, high = values.min(axis=0), values.max(axis=0)
    margin = widen * (high - low) + np.asarray(_SLACK, values.dtype)
    if arc > np.pi:
        margin[2] = 2 * np.pi
    dtype = array.dtype
    return MotionRange(
        low=jnp.asarray(low - margin, dtype),
        high=jnp.asarray(high + margin, dtype),
        angle=jnp.asarray(middle, dtype),
        shape=shape,
    )


def _wrap(angle: np.ndarray) -> np.ndarray:
    """Returns angles in [-pi, pi)."""
    return (angle + np.pi) % (2 * np.pi) - np.pi


def is_plausible(
    motions: MotionRange, transform: Float[AnyArray, "3 3"]
) -> Bool[Array, ""]:
    """Returns whether a motion lies within the range of the training motions.

    Args:
      motions: The range.
      transform: A motion.

    Returns:
      False where any coordinate is outside or not finite.
    """
    T = jnp.asarray(transform).astype(motions.low.dtype)
    values = coordinates(T, shape=motions.shape)
    turned = values[2] - motions.angle
    values = values.at[2].set(jnp.arctan2(jnp.sin(turned), jnp.cos(turned)))
    return jnp.all((values >= motions.low) & (values <= motions.high))


def judge(
    motions: MotionRange, transform: Float[AnyArray, "3 3"], info: AlignInfo
) -> AlignInfo:
    """Returns the report with the motion judged by those of the training images.

    Args:
      motions: The range.
      transform: The motion of the image.
      info: Its report.

    Returns:
      The report, ``implausible`` also where the motion is outside the range. A failed
      registration keeps what it was: its identity is no motion that was found.
    """
    outside = info.success & ~is_plausible(motions, transform)
    return info._replace(implausible=info.implausible | outside)
