"""The size at which a network sees images: chosen, or what would keep their shape."""

import math
import re
from collections.abc import Callable, Sequence

import click
import numpy as np

from gladjax import features, io
from gladjax.backbone import Backbone
from gladjax.cli.options import F
from gladjax.cli.saying import say
from gladjax.detector import Settings
from gladjax.detector.model import RANGES

SQUASHED = 1.4  # Factor on the aspect ratio from which on it is told: not at 4:3.

MIN_SIDE = 32  # Of the images that a network sees, in pixels.

Size = tuple[int, int]


def size(text: str, *, least: int = MIN_SIDE) -> Callable[[F], F]:
    """Returns the option that takes a size of images.

    Args:
      text: What it is for.
      least: Height and width, at least.
    """
    return click.option(
        "--image-size",
        nargs=2,
        type=click.IntRange(least, io.MAX_SIDE),
        metavar="HEIGHT WIDTH",
        is_eager=True,  # Tiles ask for it.
        help=text,
    )


def image_size(function: F) -> F:
    """Adds the option that says at which size the network sees the images."""
    return size(
        "Pixels at which the network sees the images, whatever their own size; by "
        "default the network's, 256 256 for most. Larger finds smaller defects."
    )(function)


def tiles(function: F) -> F:
    """Adds the options that cut large images into tiles."""
    grid = click.option(
        "--tiles",
        metavar="ROWSxCOLS",
        callback=_grid,
        help="Look at images in so many tiles, such as 4x4, for a large --image-size: "
        "a score takes the memory of one. There is one model, which knows where each "
        "tile is. A fit keeps the features of all images in files without a name, in "
        "the folder TMPDIR, which should be on a disk, not in memory.",
    )
    overlap = click.option(
        "--tile-overlap",
        type=click.IntRange(*RANGES["tile_overlap"]),
        default=Settings.tile_overlap,
        show_default=True,
        help="Pixels around a tile that the network sees with it.",
    )
    return grid(overlap(function))


def _grid(context: click.Context, _: click.Parameter, value: str | None) -> Size:
    """Returns rows and columns of tiles."""
    if value is None:
        return 1, 1
    found = re.fullmatch(r"(\d{1,3})x(\d{1,3})", value)
    if not found:
        raise click.BadParameter(f"{value!r} is not ROWSxCOLS, such as 4x4")
    if context.params.get("image_size") is None:
        raise click.BadParameter("tiles are for a large --image-size: say which")
    return int(found[1]), int(found[2])


def tell(network: Backbone, shapes: Sequence[Size]) -> None:
    """Says which size would keep the shape of images that are far from the network's.

    Args:
      network: The network, at the size that nobody chose.
      shapes: Heights and widths of the images.
    """
    ratio = float(np.median([h / w for h, w in shapes]))
    own = network.image_size
    times = ratio * own[1] / own[0]
    if max(times, 1 / times) < SQUASHED:
        return
    h, w = suggested(network, ratio)
    what = f"{shapes[0][0]} x {shapes[0][1]}"
    say(
        f"images of about {what} pixels are squashed to {own[0]} x {own[1]}; "
        f"--image-size {h} {w} keeps their shape at about the same cost",
        err=True,
    )


def suggested(network: Backbone, ratio: float) -> Size:
    """Returns a size of an aspect ratio with about the pixels of the network's own.

    Args:
      network: The network.
      ratio: Height divided by width.

    Returns:
      Height and width, multiples of the stride of the coarsest map.
    """
    own = network.image_size
    grids = features.shapes(network).values()
    stride = max(max(own[0] // h, own[1] // w) for h, w, _ in grids)
    longer = max(ratio, 1 / ratio)
    cells = round(math.sqrt(own[0] * own[1] / longer) / stride)
    cells = max(cells, -(-MIN_SIDE // stride))
    sides = stride * cells, stride * min(round(cells * longer), io.MAX_SIDE // stride)
    return sides if ratio < 1 else (sides[1], sides[0])
