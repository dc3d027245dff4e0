"""Masks: where anomalies are looked for.

A mask is a boolean image, true where a pixel counts. In the paper textures lose a
margin, because networks see the border, and objects keep roughly the area that the
object covers in the reference (design, 1.7). Every layer of features has its own grid,
so a mask is brought to a grid by area: a cell counts when at least half of it lies
inside.

Notation: a mask has the axes ``h w``, a grid ``_h _w``. Pixel and cell ``i`` are the
intervals ``[i, i + 1]`` in their own units, and both cover the same image.

Differs from the reference in: (1) the paper draws its object masks by hand; `automatic`
estimates them.

Reference: Artola, Kolodziej, Morel, Ehret. "GLAD: A Global-to-Local Anomaly Detector".
WACV 2023, section 4.
"""

import pathlib
import warnings
from collections.abc import Collection

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
from jax import Array
from jaxtyping import Bool, Float, Num, UInt8

__all__ = ["automatic", "from_file", "margin", "picture", "to_grid"]

AnyArray = Array | np.ndarray


def margin(shape: tuple[int, int], *, fraction: float = 1 / 16) -> Bool[Array, "h w"]:
    """Returns the paper's mask of a texture: everything but a margin.

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
    mask: Bool[AnyArray, "h w"], grid_shape: tuple[int, int]
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


def from_file(
    path: str | pathlib.Path,
    *,
    shape: tuple[int, int] | None = None,
    like: Collection[tuple[int, int]] = (),
) -> Bool[Array, "h w"]:
    """Returns a mask from an image file: pixels brighter than half count.

    Args:
      path: A grey image; of colours, the luminance counts.
      shape: Height and width of the result, by the nearest pixel; by default those of
        the file.
      like: Heights and widths of the images that the mask is for; a warning is given
        where it has none of their sizes.

    Returns:
      The mask.

    Raises:
      ValueError: If the file is no readable image, no pixel counts, or the images have
        another aspect ratio; the message names the file.
    """
    file = pathlib.Path(path)
    try:
        with PIL.Image.open(file) as image:
            grey = image.convert("F" if image.mode.startswith("I") else "L")
    except (OSError, ValueError) as e:
        raise ValueError(f"{file}: no readable mask image ({e}); check the path") from e
    if like:
        _compare(file, (grey.height, grey.width), like)
    if shape is not None:
        grey = grey.resize((shape[1], shape[0]), PIL.Image.Resampling.NEAREST)
    values = np.asarray(grey)
    mask = values > (values.max() if values.max() > 255 else 255) / 2
    if not mask.any():
        raise ValueError(f"{file}: the mask is empty; paint what counts white")
    return jnp.asarray(mask)


def _compare(
    file: pathlib.Path, size: tuple[int, int], like: Collection[tuple[int, int]]
) -> None:
    """Refuses a mask of another aspect ratio than images, warns of another size."""
    h, w = size
    if size in like:
        return
    slack = max(0.01, 1 / min(h, w))  # A pixel that was rounded away.
    fits = any(abs(h * wide / (w * high) - 1) <= slack for high, wide in like)
    high, wide = next(iter(like))
    message = f"{file}: the mask is {h} x {w} pixels, the images are {high} x {wide}"
    if not fits:
        raise ValueError(f"{message}, of another aspect ratio; paint it over an image")
    warnings.warn(f"{message}; it is stretched", stacklevel=3)


def automatic(
    aligned: Num[AnyArray, "n h w *c"],
    *,
    tolerance: float = 4.0,
    dilation: float = 1 / 32,
    bounds: tuple[float, float] = (0.01, 0.9),
) -> Bool[Array, "h w"]:
    """Returns the mask of an object, estimated from aligned training images.

    Background looks like the border of the images, in all of them (its mean and its
    deviation over the images are no further from those of the border than
    ``tolerance`` times their spread there), and is connected with the border. What is
    left is the object, freed of specks and dilated.

    Args:
      aligned: Training images in the frame of the reference, 0 to 255; a few dozen
        are enough.
      tolerance: How many robust standard deviations background may differ.
      dilation: Dilation as a fraction of the shorter side.
      bounds: Least and largest share of the image that is believed to be an object.

    Returns:
      The mask; everything where object and background cannot be told apart: the share
      is out of bounds, or three tenths of the border do not look like the rest of it.

    Raises:
      ValueError: If there are no images or the tolerance is not positive.
    """
    if aligned.shape[0] == 0 or tolerance <= 0:
        raise ValueError(f"no images, or tolerance={tolerance} is not positive")
    images = jnp.asarray(aligned).astype(jnp.float32)
    n, h, w = images.shape[:3]
    images = images.reshape(n, h, w, -1)
    reach = max(1, round(dilation * min(h, w)))
    far = jnp.zeros((h, w), bool)
    for statistic in (jnp.median(images, axis=0), jnp.std(images, axis=0)):
        far |= _far_from_border(statistic, tolerance)
    outside = ~_spread(~margin((h, w), fraction=1 / 64), ~_opened(far))
    mask = _dilated(_opened(outside), reach)
    share = jnp.mean(outside.astype(jnp.float32))
    ring = ~margin((h, w), fraction=1 / 16)
    strange = 10 * jnp.sum(far & ring) > 3 * jnp.sum(ring)
    sensible = (share >= bounds[0]) & (share <= bounds[1]) & ~strange
    return jnp.where(sensible, mask, jnp.ones_like(mask))


def _far_from_border(
    values: Float[Array, "h w c"], tolerance: float
) -> Bool[Array, "h w"]:
    """Returns where values differ from those of the border ring."""
    h, w, channels = values.shape
    ring = ~np.asarray(margin((h, w), fraction=1 / 16))
    border = values[ring]
    middle = jnp.median(border, axis=0)
    spread = 1.4826 * jnp.median(jnp.abs(border - middle[None]), axis=0) + 2
    gap = jnp.abs(values - middle.reshape(1, 1, channels))
    return jnp.any(gap > tolerance * spread.reshape(1, 1, channels), axis=-1)


def _window(mask: Bool[Array, "h w"], reach: int, *, least: bool) -> Array:
    """Returns the least or the greatest value in a square window."""
    operation = jax.lax.bitwise_and if least else jax.lax.bitwise_or
    side = 2 * reach + 1
    return jax.lax.reduce_window(
        mask, jnp.asarray(least), operation, (side, side), (1, 1), "SAME"
    )


def _dilated(mask: Bool[Array, "h w"], reach: int) -> Bool[Array, "h w"]:
    """Returns a mask grown by a square."""
    return _window(mask, reach, least=False)


def _opened(mask: Bool[Array, "h w"]) -> Bool[Array, "h w"]:
    """Returns a mask without what is narrower than three pixels."""
    return _window(_window(mask, 1, least=True), 1, least=False)


def _spread(seed: Bool[Array, "h w"], within: Bool[Array, "h w"]) -> Array:
    """Returns the part of ``within`` that is connected with the seed."""

    def grow(state: tuple[Array, Array]) -> tuple[Array, Array]:
        mask, _ = state
        grown = _dilated(mask, 1) & within
        return grown, jnp.any(grown != mask)

    start = (seed & within, jnp.asarray(True))
    return jax.lax.while_loop(lambda state: state[1], grow, start)[0]


def picture(
    reference: Num[AnyArray, "h w *c"], mask: Bool[AnyArray, "h w"]
) -> UInt8[np.ndarray, "h w 3"]:
    """Returns a picture to check a mask by: what does not count is dark, edged in red.

    Args:
      reference: The reference, 0 to 255.
      mask: Its mask.

    Returns:
      An RGB picture.
    """
    inside = jnp.asarray(mask)
    grey = np.asarray(reference, np.float32).reshape(*inside.shape, -1)
    colours = np.broadcast_to(grey, (*inside.shape, 3)) if grey.shape[-1] == 1 else grey
    shown = np.where(np.asarray(inside)[..., None], colours, 0.35 * colours)
    edge = np.asarray(_dilated(inside, 1) & ~inside)
    shown[edge] = (255, 0, 0)
    return np.clip(np.rint(shown), 0, 255).astype(np.uint8)
