"""Images from files as RGB arrays, and back.

Whatever a camera wrote, the rest of the package sees one form: an array (h, w, 3) of
red, green and blue in 0 to 255. Grey images are repeated, palettes looked up, alpha is
dropped, the orientation noted by the camera is applied, and 16-bit values are divided
by 257, so that 65535 becomes 255. A file that cannot be read is an `ImageError` that
names the file and the remedy; nothing else escapes, and no small file can claim
unbounded memory.

Notation: ``h w c`` height, width, channels.

Differs from the reference in:

1. Pillow's conversion of 16-bit grey images to 8 bits saturates; here values are
   scaled. (Of 16-bit *colour* images Pillow keeps the upper byte: within one level.)
2. Formats that Pillow hands to other programs (EPS), and rare ones, are not opened.

Reference: Pillow, https://pillow.readthedocs.io.
"""

import functools
import io
import os
import pathlib
from collections.abc import Callable

import numpy as np
import PIL.Image
from jaxtyping import Float32, Num, UInt8

from gladjax import files

StrPath = str | os.PathLike[str]
Pixels = UInt8[np.ndarray, "h w 3"] | Float32[np.ndarray, "h w 3"]

MAX_PIXELS = 64 * 2**20
"""The largest image, in pixels, that is decoded by default: 67 million."""

SUFFIXES = (
    *(".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pbm", ".pgm", ".png"),
    *(".ppm", ".tif", ".tiff", ".webp"),
)
"""File name endings, in lower case, that count as images when a folder is listed."""

_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "PPM", "WEBP", "GIF", "JPEG2000", "AVIF")
_ORIENTATION = 0x0112  # EXIF tag


class ImageError(ValueError):
    """A file that is no readable image; the message names it and says what to do."""


def read(path: StrPath, *, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Reads an image file as RGB.

    Args:
      path: A PNG, JPEG, BMP, TIFF, PPM, WebP, GIF (its first frame), JPEG 2000 or AVIF.
      max_pixels: The largest width times height that is decoded. Above 89 million,
        ``PIL.Image.MAX_IMAGE_PIXELS`` must be raised as well.

    Returns:
      The image in 0 to 255: 8-bit files as ``uint8``, 16-bit and float files as
      ``float32``, not rounded.

    Raises:
      ImageError: If the file is missing, empty, truncated, of no known format, larger
        than allowed, without pixels, or has values whose range is unknown (32-bit
        integers above 65535, floats outside 0 to 255).
    """
    file = pathlib.Path(path)
    try:
        known = file.is_file()
        empty = known and file.stat().st_size == 0
    except (OSError, ValueError) as e:
        raise ImageError(f"{file}: {e}; check the path") from e
    if not known:
        raise ImageError(f"{file}: no such image file; check the path")
    if empty:
        raise ImageError(f"{file}: the file is empty; copy it again")
    return _decode(file, str(file), max_pixels)


def decode(data: bytes, *, name: str = "image", max_pixels: int = MAX_PIXELS) -> Pixels:
    """Decodes the bytes of an image file as RGB, as `read` does.

    Args:
      data: The contents of a file.
      name: What errors call it.
      max_pixels: The largest width times height that is decoded.

    Raises:
      ImageError: As in `read`.
    """
    return _decode(io.BytesIO(data), name, max_pixels)


def _decode(file: pathlib.Path | io.BytesIO, name: str, max_pixels: int) -> np.ndarray:
    """Decodes an image, and makes any failure an `ImageError`."""
    try:
        with PIL.Image.open(file, formats=_formats()) as image:
            _check_size(name, image.size, max_pixels)
            image.load()
            _check_size(name, image.size, max_pixels)
            return _upright(_rgb(name, image), _orientation(image))
    except ImageError:
        raise
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning) as e:
        raise ImageError(f"{name}: {e}; reduce it or raise the limit") from e
    except PIL.UnidentifiedImageError as e:
        remedy = "copy it again or convert it to PNG"
        raise ImageError(f"{name}: no image of a known format; {remedy}") from e
    except Exception as e:  # A damaged file can raise nearly anything in Pillow.
        reason = str(e) or type(e).__name__
        remedy = "it is damaged or cut short, copy it again or leave it out"
        raise ImageError(f"{name}: cannot be decoded ({reason}); {remedy}") from e


def shape(path: StrPath) -> tuple[int, int]:
    """Returns the height and width of an image file, upright, without decoding it.

    Args:
      path: The file.

    Raises:
      ImageError: If the file has no readable header.
    """
    file = pathlib.Path(path)
    try:
        with PIL.Image.open(file, formats=_formats()) as image:
            size = getattr(image, "tag_v2", {})  # Pillow has turned a TIFF's size.
            width, height = size.get(256, image.width), size.get(257, image.height)
            turned = _orientation(image) in (5, 6, 7, 8)
    except Exception as e:
        remedy = "copy it again or leave it out"
        raise ImageError(f"{file}: not a readable image ({e}); {remedy}") from e
    return (int(width), int(height)) if turned else (int(height), int(width))


@functools.cache
def _formats() -> tuple[str, ...]:
    """Returns the formats that the installed Pillow knows; older ones lack AVIF."""
    PIL.Image.init()
    return tuple(name for name in _FORMATS if name in PIL.Image.OPEN)


def _check_size(file: str, size: tuple[int, int], max_pixels: int) -> None:
    """Refuses images without pixels and images with too many."""
    width, height = size
    if width < 1 or height < 1:
        raise ImageError(f"{file}: {width} x {height} pixels; leave it out")
    if width * height > max_pixels:
        raise ImageError(
            f"{file}: {width} x {height} pixels are more than the limit of "
            f"{max_pixels}; reduce the image or raise max_pixels"
        )


def _rgb(file: str, image: PIL.Image.Image) -> np.ndarray:
    """Converts a decoded image of any mode to (h, w, 3)."""
    if image.mode == "F" or image.mode.startswith("I"):
        return np.repeat(_deep_grey(file, image)[..., None], 3, axis=-1)
    if image.mode in ("P", "PA", "RGBa", "La"):
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    return np.array(image.convert("RGB"), np.uint8)


def _deep_grey(file: str, image: PIL.Image.Image) -> np.ndarray:
    """Brings grey values of 16 bits or floats to 0 to 255 as float32."""
    values = np.asarray(image).astype(np.float64)
    limit, scale = (255, 1) if image.mode == "F" else (65535, 257)
    if not (values.min() >= 0 and values.max() <= limit):
        raise ImageError(
            f"{file}: values from {values.min():g} to {values.max():g}, "
            f"expected 0 to {limit}; scale them and save as 8 or 16 bits"
        )
    return (values / scale).astype(np.float32)


def _orientation(image: PIL.Image.Image) -> int:
    """Returns the EXIF orientation, 1 (upright) where it is absent or unreadable."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # Damaged metadata do not spoil the pixels.
        return 1


def _upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """Applies one of the eight EXIF orientations; an unknown one changes nothing."""
    turned: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a),
    }
    return np.ascontiguousarray(turned.get(orientation, lambda a: a)(array))


def resize(
    image: Num[np.ndarray, "h w c"], size: int | tuple[int, int]
) -> Float32[np.ndarray, "h2 w2 c"]:
    """Resizes an image bilinearly with antialiasing, channel by channel in float32.

    This is Pillow's ``BILINEAR``, a triangle as wide as the reduction, without rounding
    to whole levels.

    Args:
      image: Any real values.
      size: The new height and width, or one side for both.

    Returns:
      The resized image; a copy of the values where the size is the same already.

    Raises:
      ValueError: If a side is below 1.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise ValueError(f"size must be at least 1 x 1, not {height} x {width}")
    values = np.array(image, np.float32)
    if values.shape[:2] == (height, width):
        return values
    channels = [
        PIL.Image.fromarray(np.ascontiguousarray(values[..., c])).resize(
            (width, height), PIL.Image.Resampling.BILINEAR
        )
        for c in range(values.shape[2])
    ]
    return np.stack([np.asarray(channel) for channel in channels], axis=-1)


def write_png(path: StrPath, image: Num[np.ndarray, "h w *c"]) -> None:
    """Writes an image as an 8-bit PNG, atomically.

    Args:
      path: The file to write.
      image: Grey (h, w) or colour (h, w, 3), rounded and clipped to 0 to 255.

    Raises:
      ValueError: If the shape is another one, or a value is NaN.
    """
    if not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
        raise ValueError(f"image must be (h, w) or (h, w, 3), not {image.shape}")
    if image.dtype.kind == "f" and np.isnan(image).any():
        raise ValueError("image has NaN in it")
    whole = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    with files.atomic(path) as file:
        PIL.Image.fromarray(whole).save(file, format="PNG")
