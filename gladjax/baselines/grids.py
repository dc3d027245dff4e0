"""What the baselines share: feature maps on several grids, and heat maps.

A training or test set is a dictionary of feature maps, one array ``(n, h, w, d)`` per
layer, finest grid first. The functions here check such dictionaries, bring layers to
one grid, and bring a map of scores to the size of an image. Resizing and smoothing are
linear and act on rows and columns apart, so that each is a small matrix per side,
``A_h @ map @ A_w'``: the same few lines serve every method.

Notation: ``n`` images (``m`` of them for training), ``_h _w`` the grid of a layer,
``d`` its features; ``H W`` the finest grid.

Differs from the reference in: nothing, the module has none of its own.
"""

import itertools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

FeatureMaps = Mapping[str, Float[Array | np.ndarray, "n _h _w _d"]]
Valid = Bool[Array | np.ndarray, "n _h _w"]
Size = tuple[int, int]

HIGHEST = jax.lax.Precision.HIGHEST


def select(features: FeatureMaps, layers: Sequence[str] | None) -> tuple[str, ...]:
    """Returns the names of the layers to use, finest grid first, after checks.

    Args:
      features: Feature maps, one entry per layer.
      layers: Names to use, finest first; None means all, in the dictionary's order.

    Returns:
      The names.

    Raises:
      ValueError: If there is no layer, a name is missing or given twice, the number of
        images differs, there are no images, or a later grid is finer.
    """
    names = tuple(features) if layers is None else tuple(layers)
    if not names:
        raise ValueError("features holds no layer")
    for name in names:
        if name not in features:
            raise ValueError(f"features has no {name!r}; it has {list(features)}")
    if len(set(names)) != len(names):
        raise ValueError(f"layers names one layer twice: {list(names)}")
    shapes = [features[name].shape for name in names]
    if len({shape[0] for shape in shapes}) != 1 or shapes[0][0] == 0:
        raise ValueError(f"every layer needs the same images, got shapes {shapes}")
    for fine, coarse in itertools.pairwise(shapes):
        if coarse[1] > fine[1] or coarse[2] > fine[2]:
            raise ValueError(f"layers must come finest first, got shapes {shapes}")
    return names


def finest(features: FeatureMaps, layers: Sequence[str]) -> Size:
    """Returns height and width of the first layer named."""
    _, h, w, _ = features[layers[0]].shape
    return h, w


def coarsen(valid: Valid | None, features: FeatureMaps) -> dict[str, Array] | None:
    """Brings a boolean map on the finest grid to the grid of every layer.

    Args:
      valid: True where a cell of the finest of all given grids may be used.
      features: Feature maps, one entry per layer, finest first.

    Returns:
      For each layer a boolean array ``(n, h, w)``, True where every fine cell that
      touches the coarse one is valid; None where ``valid`` is None.

    Raises:
      ValueError: If ``valid`` does not fit the finest layer.
    """
    if valid is None:
        return None
    shape = next(iter(features.values())).shape[:3]
    if valid.shape != shape:
        raise ValueError(f"valid has shape {valid.shape}, the finest layer has {shape}")
    outside = np.logical_not(np.asarray(valid)).astype(np.float32)
    found = {}
    for name, value in features.items():
        rows = _cover(value.shape[1], shape[1])
        columns = _cover(value.shape[2], shape[2])
        found[name] = jnp.asarray(rows @ outside @ columns.T == 0)
    return found


def blank(
    features: FeatureMaps, masks: Mapping[str, Bool[Array, "n _h _w"]] | None
) -> dict[str, Float[Array, "n _h _w _d"]]:
    """Sets the features of invalid cells to 0, so that products may run over them.

    Args:
      features: Feature maps, one entry per layer.
      masks: What `coarsen` returned; None leaves the features as they are.

    Returns:
      The feature maps as JAX arrays.
    """
    maps = {name: jnp.asarray(x) for name, x in features.items()}
    if masks is None:
        return maps
    return {name: jnp.where(masks[name][..., None], x, 0) for name, x in maps.items()}


def whole(masks: Sequence[Bool[Array, "n _h _w"]]) -> Bool[np.ndarray, "n _h _w"]:
    """Returns the cells of the first grid whose bilinear reading is valid everywhere.

    Args:
      masks: Validity on the grid of each layer, finest first.

    Returns:
      True where resizing every layer to the first's grid reads valid cells only.
    """
    _, h, w = masks[0].shape
    found = np.ones(masks[0].shape, bool)
    for mask in masks:
        rows = bilinear_matrix(mask.shape[1], h) > 0
        columns = bilinear_matrix(mask.shape[2], w) > 0
        bad = np.logical_not(np.asarray(mask)).astype(int)
        found &= rows.astype(int) @ bad @ columns.astype(int).T == 0
    return found


def nearest_indices(size: int, target: int) -> np.ndarray:
    """Returns the source cell of each target cell for resizing by nearest neighbour.

    Args:
      size: Number of source cells.
      target: Number of target cells.

    Returns:
      ``floor(i * size / target)`` for each target cell ``i``.
    """
    return np.arange(target) * size // target


def bilinear_matrix(size: int, target: int) -> np.ndarray:
    """Returns the matrix that resizes one side linearly, half-pixel centres.

    Args:
      size: Number of source cells.
      target: Number of target cells.

    Returns:
      A matrix ``(target, size)`` in float64 whose rows sum to 1; the border repeats
      its last cell. No antialiasing when ``target < size``.
    """
    place = (np.arange(target) + 0.5) * (size / target) - 0.5
    place = np.clip(place, 0.0, size - 1.0)
    low = np.floor(place).astype(int)
    high = np.minimum(low + 1, size - 1)
    share = place - low
    matrix = np.zeros((target, size))
    np.add.at(matrix, (np.arange(target), low), 1.0 - share)
    np.add.at(matrix, (np.arange(target), high), share)
    return matrix


def gaussian_matrix(size: int, sigma: float) -> np.ndarray:
    """Returns the matrix that smooths one side by a Gaussian.

    The kernel has ``2 int(4 sigma + 0.5) + 1`` taps and sum 1; the border is mirrored
    without repeating the last cell.

    Args:
      size: Number of cells.
      sigma: Standard deviation in cells; 0 gives the identity.

    Returns:
      A matrix ``(size, size)`` in float64 whose rows sum to 1.

    Raises:
      ValueError: If ``sigma`` is negative.
    """
    if sigma < 0:
        raise ValueError(f"sigma must not be negative, got {sigma}")
    if sigma == 0:
        return np.eye(size)
    reach = int(4.0 * sigma + 0.5)
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    source = np.pad(np.arange(size), reach, mode="reflect" if size > 1 else "edge")
    matrix = np.zeros((size, size))
    for offset, tap in enumerate(taps / taps.sum()):
        np.add.at(matrix, (np.arange(size), source[offset : offset + size]), tap)
    return matrix


def resize(maps: Float[Array, "n _h _w _d"], size: Size) -> Float[Array, "n _H _W _d"]:
    """Resizes feature maps bilinearly, half-pixel centres."""
    if maps.shape[1:3] == size:
        return maps
    rows = jnp.asarray(bilinear_matrix(maps.shape[1], size[0]), maps.dtype)
    columns = jnp.asarray(bilinear_matrix(maps.shape[2], size[1]), maps.dtype)
    return jnp.einsum("ih,nhwd,jw->nijd", rows, maps, columns, precision=HIGHEST)


def heat_map(
    maps: Float[Array, "n _h _w"], *, image_size: Size, sigma: float = 0.0
) -> Float[Array, "n _H _W"]:
    """Brings maps of scores to the size of the image and smooths them there.

    Args:
      maps: Scores on the grid of a layer.
      image_size: Height and width of the result.
      sigma: Standard deviation of the smoothing in pixels of the result.

    Returns:
      The maps, resized bilinearly, then smoothed.
    """
    sides = [
        jnp.asarray(gaussian_matrix(new, sigma) @ bilinear_matrix(old, new), maps.dtype)
        for old, new in zip(maps.shape[1:], image_size, strict=True)
    ]
    return jnp.einsum("ih,nhw,jw->nij", sides[0], maps, sides[1], precision=HIGHEST)


def image_size_or_default(size: Size | None, grid: Size) -> Size:
    """Returns a checked image size; None means four times the finest grid.

    Args:
      size: Height and width in pixels, or None.
      grid: Height and width of the finest grid.

    Returns:
      Height and width in pixels.

    Raises:
      ValueError: If a side is not positive.
    """
    found = (4 * grid[0], 4 * grid[1]) if size is None else (int(size[0]), int(size[1]))
    if min(found) < 1:
        raise ValueError(f"image_size must be positive, got {found}")
    return found


def _cover(coarse: int, fine: int) -> np.ndarray:
    """Returns a 0/1 matrix: the fine cells that touch each coarse cell."""
    start = np.arange(coarse) * fine // coarse
    stop = -(-(np.arange(coarse) + 1) * fine // coarse)
    cells = np.arange(fine)
    return ((cells >= start[:, None]) & (cells < stop[:, None])).astype(np.float32)
