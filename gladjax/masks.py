"""Masks: where anomalies are looked for.

A mask is a boolean image, true where a pixel counts. Textures lose a margin, because
networks see the border; objects keep roughly the area that the object covers in the
reference (design, 1.7). Every layer of features has its own grid, so a mask is brought
to a grid by area: a cell counts when at least half of it lies inside.

Notation: a mask has the axes ``h w``, a grid ``_h _w``. Pixel and cell ``i`` are the
intervals ``[i, i + 1]`` in their own units, and both cover the same image.

Differs from the reference in: (1) the paper draws its object masks by hand; `automatic`
estimates them.

Reference: Artola, Kolodziej, Morel, Ehret. "GLAD: A Global-to-Local Anomaly Detector".
WACV 2023, section 4.
"""

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool

__all__ = ["margin", "to_grid"]


def margin(shape: tuple[int, int], *, fraction: float = 1 / 16) -> Bool[Array, "h w"]:
    """Returns the mask of a texture: everything but a margin.

    Args:
      shape: Height and width of the mask.
      fraction: Width of the margin as a fraction of each side, rounded to whole
        pixels, in [0, 0.5).

    Returns:
      The mask; it always keeps at least one pixel.

    Raises:
      ValueError: If a side is not positive or the fraction is out of range.

    References:
      The paper, section 4: "a margin of 1/16th of the size of the image".

    Example:
      >>> print(margin((16, 32)).sum())
      392
    """
    if min(shape) < 1:
        raise ValueError(f"shape must be positive, got {shape}")
    if not 0 <= fraction < 0.5:
        raise ValueError(f"fraction must lie in [0, 0.5), got {fraction}")
    keep = []
    for side in shape:
        width = min(round(fraction * side), (side - 1) // 2)
        position = np.arange(side)
        keep.append((position >= width) & (position < side - width))
    return jnp.asarray(keep[0][:, None] & keep[1][None, :])


def to_grid(
    mask: Bool[Array | np.ndarray, "h w"], grid_shape: tuple[int, int]
) -> Bool[Array, "_h _w"]:
    """Returns a mask on another grid: the cells that lie inside by half or more.

    The area of a cell that lies inside is exact: in units of ``1 / (h _h)`` by
    ``1 / (w _w)`` every overlap of a cell with a pixel is a whole number.

    Args:
      mask: True where a pixel counts.
      grid_shape: Height and width of the grid, coarser or finer than the mask.

    Returns:
      The mask on the grid. Exactly half is inside.

    Raises:
      ValueError: If a side of the grid is not positive.

    References:
      design, R5.

    Example:
      >>> mask = jnp.array([[True, False, False], [True, True, False]])
      >>> print(to_grid(mask, (1, 3)).astype(int))
      [[1 1 0]]
    """
    if min(grid_shape) < 1:
        raise ValueError(f"grid_shape must be positive, got {grid_shape}")
    h, w = mask.shape
    rows = jnp.asarray(_overlaps(h, grid_shape[0]))
    columns = jnp.asarray(_overlaps(w, grid_shape[1]))
    inside = jnp.asarray(mask).astype(jnp.float32)
    area = jnp.einsum("ah,hw,bw->ab", rows, inside, columns, precision="highest")
    return 2 * area >= jnp.float32(h * w)


def _overlaps(side: int, cells: int) -> np.ndarray:
    """Returns the overlap of each cell with each pixel, in units of 1 / (side cells).

    A cell is ``side`` units long and a pixel ``cells`` units; all values are integers.
    """
    cell = np.arange(cells)[:, None] * side
    pixel = np.arange(side)[None, :] * cells
    overlap = np.minimum(cell + side, pixel + cells) - np.maximum(cell, pixel)
    return np.maximum(overlap, 0).astype(np.float32)
