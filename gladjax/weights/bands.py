"""Maps in bands of rows: what is made of all components at once is one band high."""

from functools import partial

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from gladjax import programs
from gladjax.mixture import AnyArray, room
from gladjax.weights.local import LabelCounts, tallied, windowed

IMAGES = 16  # Images of a slice: one program, whatever the number of images.
POSITIONS = 4096  # Of a band of a map, at most, unless one row has more.


def band(height: int, width: int) -> int:
    """Returns the rows of a map that are looked at together: bands of one height.

    Args:
      height: Rows of the map.
      width: Its columns.
    """
    parts = [n for n in range(1, height + 1) if height % n == 0]
    fitting = (height // n for n in parts if height // n * width <= POSITIONS)
    return next(fitting, 1)


def filled(part: AnyArray, size: int, *, value: int = 0) -> AnyArray:
    """Returns images with others after them, so that there are always as many.

    Args:
      part: The images.
      size: Number of images to return.
      value: That of the others.
    """
    missing = size - len(part)
    if not missing:
        return part
    pad = [(0, missing), *[(0, 0)] * (part.ndim - 1)]
    return np.pad(np.asarray(part), pad, constant_values=value)


def around(
    labels: Int[np.ndarray, "m h w"],
    num_components: int,
    rows: slice,
    *,
    radius: float,
    before: LabelCounts | None = None,
) -> Float[Array, "r w k"]:
    """Counts the labels around the positions of a band (Eq. 11), see `counts`.

    Args:
      labels: Component of each sample, negative where not valid.
      num_components: Number of components ``k``.
      rows: The band.
      radius: Radius of the window.
      before: Labels of further images.
    """
    k, reach = num_components, int(radius)
    _, h, w = labels.shape
    top, end = rows.start - reach, rows.stop + reach
    outside = max(-top, 0), max(end - h, 0)
    past = None if before is None else _cut(before, top, end, k)
    total = jnp.zeros((end - top, w, k), jnp.float32)
    for first in range(0, len(labels), IMAGES):
        part = labels[first : first + IMAGES, max(top, 0) : end]
        part = np.pad(part, ((0, 0), outside, (0, 0)), constant_values=-1)
        total = _add(total, filled(part, IMAGES, value=-1), past)
        past = None
    return _window(total, radius)


@partial(programs.Program, donate=("total",))
def _add(total: Array, labels: Array, before: LabelCounts | None) -> Array:
    return tallied(labels, total.shape[2], before=before, total=total)


@partial(programs.Program, static=("radius",))
def _window(total: Float[Array, "r w k"], radius: float) -> Array:
    reach = int(radius)
    return windowed(total, radius)[reach : len(total) - reach]


def _cut(before: LabelCounts, top: int, end: int, none: int) -> LabelCounts:
    """Returns counts of some rows, and entries of no component to a usual number."""
    w = before.shape[1]
    places = np.asarray(before.places) - top * w
    index = np.flatnonzero((places >= 0) & (places < (end - top) * w))
    more = (0, room(len(index)) - len(index))
    return LabelCounts(
        places=np.pad(places[index], more).astype(np.int32),
        components=np.pad(
            np.asarray(before.components)[index], more, constant_values=none
        ),
        amounts=np.pad(np.asarray(before.amounts)[index], more),
        shape=(end - top, w),
    )
