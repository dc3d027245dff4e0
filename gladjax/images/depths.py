"""How many bits the values of a file have, and what white is.

A file of 16 bits may hold the 10 or 12 bits of a camera, and a float file values up to
1 or up to 255. Nothing in most files says which, so it is declared, or observed over
the images learnt from (`gladjax.images.survey`), and then holds for every later image.
Files of 8 bits leave no doubt, and nothing here changes them.

Notation: a value ``v`` of ``b`` bits becomes ``255 v / (2^b - 1)``.

Differs from the reference in:

1. Of 16-bit *colour* Pillow keeps the upper byte. Where fewer than 16 bits count, the
   lower byte is read as well, by decoding in the other byte order.

Reference: Pillow, https://pillow.readthedocs.io.
"""

import sys
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import PIL.Image
from jaxtyping import Float32, UInt8

Kind = Literal["bytes", "deep", "colour", "real"]

BITS = (8, 10, 12, 14, 16)
"""The depths that are told apart by the largest value."""


class Depth(NamedTuple):
    """What values of more than 8 bits mean.

    Attributes:
      bits: Of the integers in files of 16 bits, 8 to 16; None if it is not known, which
        reads them as 16.
      white: The value of white in float files, 1 or 255; None if it is not known: 1
        where a file has no larger one.
    """

    bits: int | None = None
    white: float | None = None


UNKNOWN = Depth()


class Stored(NamedTuple):
    """How a file keeps its values.

    Attributes:
      kind: ``"bytes"`` of 8 bits or fewer; ``"deep"``, grey of 16; ``"colour"`` of 16,
        of which the upper byte is decoded; ``"real"``, floats.
      bits: What the file itself says of its integers; None where it does not.
    """

    kind: Kind
    bits: int | None = None


def stored(image: PIL.Image.Image) -> Stored:
    """Returns how the values of an image are kept; to be asked before it is decoded."""
    if image.mode == "F":
        return Stored("real")
    tile = image.tile[0] if getattr(image, "tile", None) else None  # type: ignore[attr-defined]
    scaled = tile is not None and tile[0] in ("ppm", "jpeg2k")  # By Pillow, to 16 bits.
    if image.mode.startswith("I"):
        bits = getattr(image, "tag_v2", {}).get(258, (16,))[0]
        return Stored("deep", 16 if scaled else bits if 8 < bits < 16 else None)
    if image.mode in ("LA", "RGB", "RGBA") and ";16" in _raw_mode(tile):
        return Stored("colour")
    return Stored("bytes")


def _raw_mode(tile: Any) -> str:  # noqa: ANN401 - Pillow's own tuple
    """Returns the form of the file's values, empty where there is none."""
    arguments = () if tile is None else tile[3]
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def swap(image: PIL.Image.Image) -> None:
    """Makes an image decode the lower bytes of its 16-bit colours.

    Args:
      image: An opened image of the kind ``"colour"``, not decoded yet.
    """
    little = sys.byteorder == "little"
    other = {"16B": "16L", "16L": "16B", "16N": "16B" if little else "16L"}
    tiles = []
    for tile in image.tile:  # type: ignore[attr-defined]
        mode, _, order = _raw_mode(tile).partition(";")
        swapped = f"{mode};{other[order]}"
        rest = tile[3][1:] if isinstance(tile[3], tuple) else None
        arguments = swapped if rest is None else (swapped, *rest)
        tiles.append(type(tile)(*tile[:3], arguments))
    image.tile = tiles  # type: ignore[attr-defined]


def colours(
    upper: UInt8[np.ndarray, "h w c"], lower: UInt8[np.ndarray, "h w c"], bits: int
) -> Float32[np.ndarray, "h w 3"]:
    """Returns colours of 16-bit files, of which fewer bits count, in 0 to 255.

    Args:
      upper: Upper bytes; grey and alpha, or red, green, blue and perhaps alpha.
      lower: Lower bytes.
      bits: How many count.
    """
    values = upper.astype(np.float64) * 256 + lower
    values = np.repeat(values[..., :1], 3, axis=-1) if values.shape[2] == 2 else values
    return (values[..., :3] / divisor(bits)).astype(np.float32)


def divisor(bits: int | None) -> float:
    """Returns what brings integers of some bits to 0 to 255; of 16, if not known."""
    return (2 ** (16 if bits is None else bits) - 1) / 255


def needed(largest: float) -> int:
    """Returns the least depth of `BITS` that holds a value; 16 if all is black.

    Args:
      largest: The largest value of all images.

    Example:
      >>> needed(4000.0)
      12
    """
    return next((b for b in BITS if 0 < largest < 2**b), 16)


def observed(
    found: Sequence[tuple[Stored, float]], *, bits: int | None = None
) -> Depth:
    """Returns the depth of a set of images.

    Args:
      found: How each image is stored, and its largest value as it is stored.
      bits: The depth of the integers, where it is declared.

    Returns:
      The depth; None in it for what there is no image of, unless it is declared.

    Raises:
      ValueError: If the declared depth is not 8 to 16, or a value is larger.
    """
    if bits is not None and not 8 <= bits <= 16:
        raise ValueError(f"the depth must be 8 to 16 bits, not {bits}")
    deep = [(s.bits, value) for s, value in found if s.kind in ("deep", "colour")]
    reals = [value for s, value in found if s.kind == "real"]
    largest = max((value for _, value in deep), default=0.0)
    if bits is not None and largest >= 2**bits:
        raise ValueError(f"a value of {largest:g} does not fit into {bits} bits")
    if bits is None and deep:
        bits = max([needed(largest), *(told or 0 for told, _ in deep)])
    return Depth(bits, (1.0 if max(reals) <= 1 else 255.0) if reals else None)
