"""From log-maps to a score and a heat map."""

import functools
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from gladjax.covariance import PRECISION
from gladjax.mixture import AnyArray


def aggregate(log_maps: Sequence[Float[AnyArray, "_h _w"]]) -> Float[Array, "h w"]:
    """Multiplies the layers' probabilities: adds their log-maps on the finest grid.

    Args:
      log_maps: One map per layer, of any sizes.

    Returns:
      The sum, on the grid with the most positions; coarser maps are interpolated
      bilinearly with half-pixel centres.

    Raises:
      ValueError: If there is no map.
    """
    if not log_maps:
        raise ValueError("there must be at least one log-map")
    shape = max((m.shape for m in log_maps), key=lambda s: s[0] * s[1])
    maps = [upsample(m, shape) for m in log_maps]
    return sum(maps[1:], start=maps[0])


def upsample(
    values: Float[AnyArray, "_h _w"], shape: tuple[int, int], *, sigma: float = 0.0
) -> Float[Array, "h w"]:
    """Interpolates a map bilinearly, with half-pixel centres, and smooths it there.

    Args:
      values: The map.
      shape: Height and width wanted.
      sigma: Standard deviation, in new cells, of a Gaussian cut at four of them; 0 for
        no smoothing.

    Returns:
      The map on the new grid; its border is continued, that of the smoothing mirrored.
    """
    values = jnp.asarray(values)
    if values.shape == tuple(shape) and sigma <= 0:
        return values
    # The two are one linear map along each axis.
    rows, columns = (
        jnp.asarray(_along(old, new, sigma, values.dtype))
        for old, new in zip(values.shape, shape, strict=True)
    )
    values = jnp.matmul(rows, values, precision=PRECISION)
    return jnp.matmul(values, columns.T, precision=PRECISION)


@functools.lru_cache(maxsize=64)
def _along(
    size: int, new: int, sigma: float, dtype: np.dtype
) -> Float[np.ndarray, "n s"]:
    """Returns the matrix of interpolation, and smoothing, along one axis."""
    low, high, part = _neighbours(size, new)
    matrix = np.zeros((new, size))
    np.add.at(matrix, (np.arange(new), low), 1 - part)
    np.add.at(matrix, (np.arange(new), high), part)
    if sigma > 0:
        matrix = _gaussian(new, sigma) @ matrix
    return matrix.astype(dtype)


def _neighbours(size: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the two old places beside every new one, and the share of the second."""
    at = np.clip((np.arange(new) + 0.5) * size / new - 0.5, 0, size - 1)
    low = np.minimum(at.astype(int), max(size - 2, 0))
    return low, np.minimum(low + 1, size - 1), at - low


def enlarge(
    values: Float[np.ndarray, "_h _w"], shape: tuple[int, int]
) -> Float[np.ndarray, "h w"]:
    """Interpolates a map as `upsample` does, on the host and for any size.

    No program is compiled for a size, and no matrix is built: memory is that of the
    result and of two maps with one side of it.

    Args:
      values: The map.
      shape: Height and width wanted.

    Returns:
      The map on the new grid, in its type; rounding may differ from `upsample`.
    """
    if values.shape == tuple(shape):
        return values
    # The shorter side first, so that what lies between is small.
    first = 0 if shape[0] * values.shape[1] <= values.shape[0] * shape[1] else 1
    for axis in (first, 1 - first):
        low, high, part = _neighbours(values.shape[axis], shape[axis])
        share = np.expand_dims(part.astype(values.dtype), 1 - axis)
        low_values = np.take(values, low, axis)
        values = low_values + share * (np.take(values, high, axis) - low_values)
    return values


def _gaussian(size: int, sigma: float) -> Float[np.ndarray, "s s"]:
    """Returns the matrix of a Gaussian smoothing along one mirrored axis."""
    reach = int(4 * sigma + 0.5)
    step = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (step / sigma) ** 2)
    at = (np.arange(size)[:, None] + step[None, :]) % (2 * size)
    at = np.where(at < size, at, 2 * size - 1 - at)
    matrix = np.zeros((size, size))
    rows = np.broadcast_to(np.arange(size)[:, None], at.shape)
    np.add.at(matrix, (rows, at), weights / weights.sum())
    return matrix


def image_score(
    log_map: Float[AnyArray, "h w"], mask: Bool[AnyArray, "h w"], *, q: float = 0.005
) -> Float[Array, ""]:
    """Returns how anomalous an image is: minus a low quantile of its log-map.

    Args:
      log_map: Sum of the layers' log-probabilities.
      mask: Cells that count.
      q: The quantile, in [0, 1]; 0 is the minimum.

    Returns:
      Minus the ``q`` quantile inside the mask, interpolated linearly between order
      statistics; higher is more anomalous. NaN where the mask is empty.

    Raises:
      ValueError: If ``q`` is outside [0, 1] or the shapes differ.
    """
    if not 0 <= q <= 1:
        raise ValueError(f"q must be between 0 and 1, not {q}")
    if log_map.shape != mask.shape:
        raise ValueError(f"the mask {mask.shape} is not on the map {log_map.shape}")
    log_map, mask = jnp.asarray(log_map), jnp.asarray(mask)
    values = jnp.sort(jnp.where(mask, log_map, jnp.inf).ravel())
    count = jnp.sum(mask)
    at = q * jnp.maximum(count - 1, 0).astype(values.dtype)
    low = jnp.floor(at).astype(jnp.int32)
    part = at - low.astype(values.dtype)
    first = values[low]
    second = values[jnp.minimum(low + 1, jnp.maximum(count - 1, 0).astype(jnp.int32))]
    # Written so that a minus infinity does not meet a factor 0.
    between = jnp.where(part > 0, first * (1 - part) + second * part, first)
    return jnp.where(count > 0, -between, jnp.nan)


def heat_map(
    log_map: Float[AnyArray, "h w"],
    mask: Bool[AnyArray, "h w"],
    shape: tuple[int, int],
    *,
    sigma: float = 4.0,
) -> Float[Array, "_h _w"]:
    """Returns minus the log-map at image size, smoothed.

    Args:
      log_map: Sum of the layers' log-probabilities.
      mask: Cells that count; the others get the least anomalous value inside.
      shape: Height and width of the image.
      sigma: Standard deviation of the Gaussian, in pixels.

    Returns:
      The heat map; higher is more anomalous.
    """
    log_map, mask = jnp.asarray(log_map), jnp.asarray(mask)
    calm = jnp.max(jnp.where(mask, log_map, -jnp.inf))
    calm = jnp.where(jnp.any(mask), calm, 0)
    return upsample(-jnp.where(mask, log_map, calm), shape, sigma=sigma)
