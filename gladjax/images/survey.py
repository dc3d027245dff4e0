"""What is known of a set of images after each was read once: range, depth, copies.

`facts` is what a reader of many files calls instead of `read` to get to know them: of
an image, a few numbers are kept. `learnt` puts together those of the images that a
model learns from; the model file keeps them, and `unlike` compares later images.

Notation: none.

Differs from the reference in: there is none.

Reference: there is none.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gladjax.images import depths, headers, pixels
from gladjax.images.depths import Depth, Stored
from gladjax.images.headers import StrPath

BRIGHTER, DARKER = 1.05, 1 / 3
"""How far the brightest value of an image may be from those of the images learnt from;
a depth mistaken by two bits is a factor of four."""

WIDER = 1.05
"""The factor by which its aspect ratio may differ."""

MAX_CONTENTS = 100_000
"""Of more images than these, a model does not keep the contents."""

_CODE = 16  # Hexadecimal digits that stand for the content of an image.


class Facts(NamedTuple):
    """What is known of one image file.

    Attributes:
      stored: How its values are kept.
      highest: The largest value, as it is stored.
      shape: Height and width, upright.
      content: A code of the decoded pixels, equal for equal ones.
    """

    stored: Stored
    highest: float
    shape: tuple[int, int]
    content: str


class Learnt(NamedTuple):
    """What is known of the images that a model learnt from.

    Attributes:
      depth: What their values of more than 8 bits mean.
      low: The least of the images' largest values, in 0 to 255.
      high: The greatest of them.
      contents: Codes of their pixels.
      ratios: The least and the greatest height by width; None where it is not known.
    """

    depth: Depth
    low: float
    high: float
    contents: frozenset[str]
    ratios: tuple[float, float] | None = None


_AS_STORED = Depth(16, 255.0)


def facts(path: StrPath, *, max_pixels: int | None = None) -> Facts:
    """Reads an image file and keeps what is known of it.

    Args:
      path: The file.
      max_pixels: The largest width times height that is decoded, as in `read`.

    Raises:
      ImageError: As in `read`.
    """
    array, stored = pixels.load(path, max_pixels, _AS_STORED)
    highest = float(array.max())
    if stored.kind == "deep":
        highest = float(round(highest * 257))
    elif stored.kind == "colour":
        highest = 256 * highest + 255 if highest else 0.0  # The upper byte is known.
    code = hashlib.sha256(f"{array.shape} {array.dtype}".encode())
    code.update(np.ascontiguousarray(array).data)
    shape = (array.shape[0], array.shape[1])
    return Facts(stored, highest, shape, code.hexdigest()[:_CODE])


def learnt(
    found: Sequence[Facts], *, bits: int | None = None, depth: Depth | None = None
) -> Learnt:
    """Puts together what is known of the images that a model learns from.

    Args:
      found: Of each image, at least one.
      bits: The depth of the integers in files of 16 bits; observed by default.
      depth: What values mean, where that is known already.

    Raises:
      ValueError: If a value does not fit into ``bits``.
    """
    if depth is None:
        depth = depths.observed([(f.stored, f.highest) for f in found], bits=bits)
    peaks = [peak(f, depth) for f in found]
    codes = frozenset(f.content for f in found)
    few = codes if len(codes) <= MAX_CONTENTS else frozenset()
    ratios = [f.shape[0] / f.shape[1] for f in found]
    return Learnt(depth, min(peaks), max(peaks), few, (min(ratios), max(ratios)))


def peak(one: Facts, depth: Depth) -> float:
    """Returns the largest value of an image in 0 to 255.

    Args:
      one: What is known of the image.
      depth: What its value means.
    """
    if one.stored.kind == "bytes":
        return one.highest
    if one.stored.kind == "real":
        return one.highest * 255 / (depth.white or (1.0 if one.highest <= 1 else 255.0))
    return one.highest / depths.divisor(depth.bits)


def joined(one: Learnt, other: Learnt) -> Learnt:
    """Returns what is known of the images of both; the depth is the first one's."""
    low, high = min(one.low, other.low), max(one.high, other.high)
    codes = one.contents | other.contents
    ratios = one.ratios
    if one.ratios and other.ratios:
        least, most = zip(one.ratios, other.ratios, strict=True)
        ratios = (min(least), max(most))
    return Learnt(one.depth, low, high, codes, ratios)


def unlike(known: Learnt, brightest: float) -> str:
    """Returns how an image's range is unlike those learnt from; empty if it is not.

    Args:
      known: What is known of the images learnt from.
      brightest: The largest value of the image, read with their depth.
    """
    if brightest > max(255.5, BRIGHTER * known.high):
        return f"its brightest value is {brightest:.0f}, where white is 255"
    if brightest < DARKER * known.low:
        return (
            f"its brightest value is {brightest:.0f} of 255, of the images learnt from "
            f"{known.low:.0f} to {known.high:.0f}"
        )
    return ""


def stretched(known: Learnt, shape: tuple[int, int]) -> str:
    """Returns how an image's aspect ratio is unlike those learnt from; empty if not.

    Args:
      known: What is known of the images learnt from.
      shape: Height and width of the image.
    """
    low, high = known.ratios or (0.0, math.inf)
    if low / WIDER <= shape[0] / shape[1] <= high * WIDER:
        return ""
    return (
        f"it is {shape[0]} x {shape[1]} pixels, a height of {shape[0] / shape[1]:.3g} "
        f"of its width, of the images learnt from {low:.3g} to {high:.3g}; it is "
        "stretched to their shape"
    )


def copies(contents: Iterable[str]) -> dict[int, int]:
    """Returns which items are copies of earlier ones.

    Args:
      contents: The code of each item, from `facts`.

    Returns:
      The index of the first item of the same content, by the index of each copy.

    Example:
      >>> copies(["a", "b", "a", "a"])
      {2: 0, 3: 0}
    """
    first: dict[str, int] = {}
    found: dict[int, int] = {}
    for i, code in enumerate(contents):
        if first.setdefault(code, i) != i:
            found[i] = first[code]
    return found


def observe(paths: Iterable[StrPath]) -> Depth:
    """Returns the depth of a set of files; only those of more than 8 bits are decoded.

    Args:
      paths: The files; unreadable ones are left to whoever reads them.
    """
    found = []
    for path in paths:
        try:
            if headers.kept(path).kind != "bytes":
                one = facts(path)
                found.append((one.stored, one.highest))
        except headers.ImageError:
            continue
    return depths.observed(found)


def to_notes(known: Learnt) -> dict[str, Any]:
    """Returns what a model file keeps of the images learnt from, ready for JSON."""
    codes = "".join(sorted(known.contents))
    return {**known._asdict(), "depth": known.depth._asdict(), "contents": codes}


def from_notes(notes: object) -> Learnt | None:
    """Returns what a model file says of the images learnt from; nothing is believed.

    Args:
      notes: What `to_notes` returned, or anything else.

    Returns:
      None where the file says nothing, or nothing that makes sense.
    """
    if not isinstance(notes, Mapping) or not isinstance(notes.get("depth"), Mapping):
        return None
    bits, white = (notes["depth"].get(name) for name in Depth._fields)
    low, high, codes = (notes.get(name) for name in ("low", "high", "contents"))
    sound = (bits is None or bits in range(8, 17)) and white in (None, 1.0, 255.0)
    numbers = [v for v in (low, high) if isinstance(v, int | float)]
    if not sound or len(numbers) < 2 or not all(map(math.isfinite, numbers)):
        return None
    if not isinstance(codes, str) or len(codes) > _CODE * MAX_CONTENTS:
        return None
    known = frozenset(codes[i : i + _CODE] for i in range(0, len(codes), _CODE))
    ratios = _ratios(notes.get("ratios"))
    return Learnt(Depth(bits, white), numbers[0], numbers[1], known, ratios)


def _ratios(given: object) -> tuple[float, float] | None:
    """Returns the aspect ratios of a model file; files of before have none."""
    if not isinstance(given, list | tuple) or len(given) != 2:
        return None
    sound = [float(v) for v in given if isinstance(v, int | float) and v > 0]
    if len(sound) < 2 or not all(map(math.isfinite, sound)):
        return None
    return sound[0], sound[1]
