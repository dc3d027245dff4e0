"""Images too large for one piece: tiles, each seen with the pixels around it.

There is one model. Its maps and local weights are those of the whole image; only the
network, and the table of what a component adds at each position, see one tile after
the other, so that the memory of a score is that of a tile and of some arrays of the
size of the image. A fit keeps the features of all images in temporary files and reads
parts of them; what it holds is the samples that the mixtures are fitted to, and some
numbers for every cell of every image. All windows have one size, since a window at the
border of the image is moved inside, and so they share a program.

An image that is not cut is one tile: nothing is worked out, copied or computed for it
that would not be without tiles.

Notation: a *tile* is a part of the image, its *window* the tile and pixels around it.

Differs from the reference in
  1. The paper has no tiles. Features near the border of a tile are those of the whole
     image where the network sees no further than the overlap, else nearly so.

Reference: there is none.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from gladjax import features as extraction
from gladjax import files, scoring, weights
from gladjax.backbone import Backbone
from gladjax.detector.model import Layer, Settings
from gladjax.mixture import AnyArray, GaussianMixture
from gladjax.scoring import Prepared
from gladjax.weights import LocalWeights

Size = tuple[int, int]


class Tile(NamedTuple):
    """A tile, in pixels of the image.

    Attributes:
      first: Its first row and column.
      window: Those of its window.
      size: Its height and width.
    """

    first: Size
    window: Size
    size: Size


class Plan(NamedTuple):
    """All tiles of an image.

    Attributes:
      window: Height and width of a window.
      grids: Height and width of the whole map of every layer; none where there is one
        tile, the whole image.
      strides: Pixels of a cell of every layer; likewise.
      tiles: The tiles, row by row.
    """

    window: Size
    grids: dict[str, Size]
    strides: dict[str, int]
    tiles: list[Tile]

    @property
    def whole(self) -> bool:
        """Whether there is one tile, the image: nothing is cut then."""
        return len(self.tiles) == 1

    def cells(
        self, layer: str, tile: Tile, *, within: Size = (0, 0)
    ) -> tuple[slice, slice]:
        """Returns rows and columns of a map that are those of a tile.

        Args:
          layer: The layer of the map.
          tile: The tile.
          within: First row and column, in pixels, of what the map is of.
        """
        if self.whole:
            return slice(None), slice(None)
        stride = self.strides[layer]
        first = [(a - b) // stride for a, b in zip(tile.first, within, strict=True)]
        rows, columns = (
            slice(start, start + side // stride)
            for start, side in zip(first, tile.size, strict=True)
        )
        return rows, columns


def plan(backbone: Backbone, settings: Settings) -> Plan:
    """Returns the tiles of images, worked out once for a network and settings.

    Args:
      backbone: The network; its image size is that of the whole image.
      settings: Number of tiles and their overlap, which is rounded up to whole cells.

    Raises:
      ValueError: If the image does not divide into such tiles, or the network's maps
        do not have cells of whole pixels.
    """
    size, counts = backbone.image_size, (settings.tile_rows, settings.tile_columns)
    if counts == (1, 1):
        return Plan(size, {}, {}, [Tile((0, 0), (0, 0), size)])
    leaves, network = jax.tree.flatten(backbone)
    shapes = tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)
    return _plan(network, shapes, counts, settings.tile_overlap)


@functools.lru_cache(maxsize=8)
def _plan(
    network: Any,  # noqa: ANN401 - what `jax.tree.flatten` makes of a backbone
    shapes: tuple[jax.ShapeDtypeStruct, ...],
    counts: Size,
    overlap: int,
) -> Plan:
    """Returns the tiles for a network, whose weights do not matter."""
    backbone: Backbone = jax.tree.unflatten(network, shapes)
    size = backbone.image_size
    grids = _grids(backbone, size)
    strides = {name: size[0] // h for name, (h, _) in grids.items()}
    step = math.lcm(*strides.values())
    _check(backbone, size, strides)
    if any(side % (count * step) for side, count in zip(size, counts, strict=True)):
        better = [
            count * step * max(1, round(side / (count * step)))
            for side, count in zip(size, counts, strict=True)
        ]
        raise ValueError(
            f"{size[0]} x {size[1]} pixels do not divide into {counts[0]} x {counts[1]}"
            f" tiles of whole cells; the image size {better[0]} {better[1]} does"
        )
    around = step * -(-overlap // step)
    tile = size[0] // counts[0], size[1] // counts[1]
    window = min(size[0], tile[0] + 2 * around), min(size[1], tile[1] + 2 * around)
    _check(backbone, window, strides)

    def start(first: int, axis: int) -> int:
        return min(max(first - around, 0), size[axis] - window[axis])

    tiles = [
        Tile((top, left), (start(top, 0), start(left, 1)), tile)
        for top in range(0, size[0], tile[0])
        for left in range(0, size[1], tile[1])
    ]
    return Plan(window, grids, strides, tiles)


def _grids(backbone: Backbone, size: Size) -> dict[str, Size]:
    shapes = extraction.shapes(backbone, image_size=size)
    return {name: (h, w) for name, (h, w, _) in shapes.items()}


def _check(backbone: Backbone, size: Size, strides: Mapping[str, int]) -> None:
    for name, (h, w) in _grids(backbone, size).items():
        if (h * strides[name], w * strides[name]) != size:
            raise ValueError(
                f"a map of {backbone.name} is {h} x {w} for {size[0]} x {size[1]} "
                "pixels, whose cells are not of whole pixels: choose tiles and an "
                "image size that are multiples of its cells"
            )


def features(
    backbone: Backbone, given: Plan, image: Float[np.ndarray, "h w 3"]
) -> Iterator[tuple[Tile, dict[str, Float[np.ndarray, "_h _w _d"]]]]:
    """Yields the tiles of an image, and the features of each.

    Args:
      backbone: The network.
      given: The tiles.
      image: RGB, 0 to 255, of the backbone's image size.
    """
    network = dataclasses.replace(backbone, image_size=given.window)
    high, wide = given.window
    windows = (
        image[top : top + high, left : left + wide]
        for top, left in (tile.window for tile in given.tiles)
    )
    found = extraction.stream(network, windows, batch_size=1)
    for tile, maps in zip(given.tiles, found, strict=True):
        yield (
            tile,
            {
                name: value[0][given.cells(name, tile, within=tile.window)]
                for name, value in maps.items()
            },
        )


def stacked(
    backbone: Backbone,
    given: Plan,
    images: Iterable[Float[np.ndarray, "h w 3"]],
    count: int,
) -> dict[str, Float[np.ndarray, "m _h _w _d"]]:
    """Returns the features of several images.

    Args:
      backbone: The network.
      given: The tiles.
      images: RGB, 0 to 255, of the backbone's image size.
      count: Their number.

    Returns:
      Feature maps per layer. Those of tiles lie in temporary files, which go with the
      arrays.

    Raises:
      OSError: If there is no room for the files.
    """
    if given.whole:
        return extraction.extract_batches(backbone, images)
    whole: dict[str, np.ndarray] = {
        name: files.scratch((count, *grid, dim), np.dtype(np.float32))
        for (name, grid), dim in zip(given.grids.items(), backbone.dims, strict=True)
    }
    for i, image in enumerate(images):
        for tile, maps in features(backbone, given, image):
            for name, part in maps.items():
                whole[name][i][given.cells(name, tile)] = part
    return whole


def cuts(
    given: Plan, maps: Mapping[str, AnyArray]
) -> Iterator[tuple[Tile, dict[str, AnyArray]]]:
    """Yields the tiles, and the part of whole maps that is in each.

    Args:
      given: The tiles.
      maps: A map of every layer.
    """
    for tile in given.tiles:
        yield (
            tile,
            {name: m[given.cells(name, tile)] for name, m in maps.items()},
        )


def joined(
    given: Plan, parts: Iterable[tuple[Tile, Mapping[str, AnyArray]]]
) -> dict[str, AnyArray]:
    """Returns whole maps of every layer from those of tiles.

    Args:
      given: The tiles.
      parts: Each tile with its maps.
    """
    whole: dict[str, AnyArray] = {}
    for tile, maps in parts:
        if given.whole:
            return dict(maps)
        for name, value in maps.items():
            part = np.asarray(value)
            if name not in whole:
                shape = (*given.grids[name], *part.shape[2:])
                whole[name] = np.empty(shape, part.dtype)
            whole[name][given.cells(name, tile)] = part
    return whole


def prepare(
    mixture: GaussianMixture, local: LocalWeights, settings: Settings
) -> Prepared:
    """Returns what scoring needs of a layer.

    Args:
      mixture: The mixture.
      local: Its local weights.
      settings: Everything that is a number.

    Returns:
      With tiles, without what is added at the positions: `log_maps` adds it.
    """
    if settings.tile_rows * settings.tile_columns > 1:
        local = weights.cut(local, slice(0), slice(0))
    return scoring.prepare(mixture, local)


def log_maps(
    layers: Mapping[str, Layer],
    given: Plan,
    tile: Tile,
    maps: Mapping[str, Float[AnyArray, "_h _w _d"]],
) -> dict[str, Float[AnyArray, "_h _w"]]:
    """Returns the log-probability maps of a tile.

    Args:
      layers: What is known of the layers; `prepare` made them ready.
      given: The tiles.
      tile: The tile.
      maps: Its features.
    """
    found = {}
    for name, layer in layers.items():
        own, ready = layer.local_weights, layer.prepared
        if not given.whole:
            own = weights.cut(own, *given.cells(name, tile))
            ready = ready._replace(addends=scoring.addends(layer.mixture, own))
        found[name] = scoring.log_prob_map(
            layer.mixture, own, maps[name], prepared=ready
        )
    return found
