"""What the header of an image file says, without decoding it.

Notation: none.

Differs from the reference in: there is none.

Reference: Pillow, https://pillow.readthedocs.io.
"""

import contextlib
import functools
import os
import pathlib
from collections.abc import Iterator

import PIL.Image

from gladjax.images import depths
from gladjax.images.depths import Stored

StrPath = str | os.PathLike[str]

_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "PPM", "WEBP", "GIF", "JPEG2000", "AVIF")
_ORIENTATION = 0x0112  # EXIF tag


class ImageError(ValueError):
    """A file that is no readable image; the message names it and says what to do."""


def shape(path: StrPath) -> tuple[int, int]:
    """Returns the height and width of an image file, upright, without decoding it.

    Args:
      path: The file.

    Raises:
      ImageError: If the file has no readable header.
    """
    with _opened(path) as image:
        size = getattr(image, "tag_v2", {})  # Pillow has turned a TIFF's size.
        width, height = size.get(256, image.width), size.get(257, image.height)
        turned = orientation(image) in (5, 6, 7, 8)
    return (int(width), int(height)) if turned else (int(height), int(width))


def kept(path: StrPath) -> Stored:
    """Returns how the values of an image file are kept.

    Args:
      path: The file.

    Raises:
      ImageError: If the file has no readable header.
    """
    with _opened(path) as image:
        return depths.stored(image)


def lossy(path: StrPath) -> bool:
    """Whether an image file is of a format that may change values, such as JPEG.

    Args:
      path: The file.

    Raises:
      ImageError: If the file has no readable header.
    """
    with _opened(path) as image:
        return image.format in ("JPEG", "WEBP", "JPEG2000", "AVIF")


@contextlib.contextmanager
def _opened(path: StrPath) -> Iterator[PIL.Image.Image]:
    """Opens an image file, and makes any failure an `ImageError`."""
    file = pathlib.Path(path)
    try:
        with PIL.Image.open(file, formats=formats()) as image:
            yield image
    except PermissionError as e:
        raise ImageError(f"{file}: no permission to read it") from e
    except Exception as e:
        remedy = "copy it again or leave it out"
        raise ImageError(f"{file}: not a readable image ({e}); {remedy}") from e


@functools.cache
def formats() -> tuple[str, ...]:
    """Returns the formats that the installed Pillow knows; older ones lack AVIF."""
    PIL.Image.init()
    return tuple(name for name in _FORMATS if name in PIL.Image.OPEN)


def orientation(image: PIL.Image.Image) -> int:
    """Returns the EXIF orientation, 1 (upright) where it is absent or unreadable."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # Damaged metadata do not spoil the pixels.
        return 1
