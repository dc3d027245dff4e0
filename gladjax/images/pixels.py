"""Images from files as RGB arrays, and back.

Whatever a camera wrote, the rest of the package sees one form: an array (h, w, 3) of
red, green and blue in 0 to 255. Grey images are repeated, palettes looked up, alpha is
dropped, the orientation noted by the camera is applied, and 16-bit values are divided
by 257, so that 65535 becomes 255, or by less where they have fewer bits
(`gladjax.images.depths`). A file that cannot be read is an `ImageError` that names the
file and the remedy; nothing else escapes, and no small file can claim unbounded memory.

Notation: ``h w c`` height, width, channels.

Differs from the reference in:

1. Pillow's conversion of 16-bit grey images to 8 bits saturates; here values are
   scaled. (Of 16-bit *colour* images Pillow keeps the upper byte: within one level.)
2. Formats that Pillow hands to other programs (EPS), and rare ones, are not opened.

Reference: Pillow, https://pillow.readthedocs.io.
"""

import contextlib
import io
import pathlib
from collections.abc import Callable, Iterator

import numpy as np
import PIL.Image
import PIL.PngImagePlugin
from jaxtyping import Float32, Num, UInt8

from gladjax import files
from gladjax.images import depths, headers
from gladjax.images.depths import UNKNOWN, Depth, Stored
from gladjax.images.headers import ImageError, StrPath

Pixels = UInt8[np.ndarray, "h w 3"] | Float32[np.ndarray, "h w 3"]

PRESSED = 2  # Compression of a PNG: two thirds of the time of 4, 11 % more bytes.
MAX_PIXELS = 64 * 2**20
"""The largest image, in pixels, that is decoded by default: 67 million."""

SUFFIXES = (
    *(".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pbm", ".pgm", ".png"),
    *(".ppm", ".tif", ".tiff", ".webp"),
)
"""File name endings, in lower case, that count as images when a folder is listed."""


_limit: list[int] = [MAX_PIXELS]


@contextlib.contextmanager
def pixel_limit(max_pixels: int | None) -> Iterator[None]:
    """Changes, inside of the block and in all threads, the largest image to decode.

    Args:
      max_pixels: The largest width times height; None changes nothing. Pillow's own
        limit is raised where it is lower.
    """
    if max_pixels is None:
        yield
        return
    pillow = PIL.Image.MAX_IMAGE_PIXELS
    _limit.append(max_pixels)
    PIL.Image.MAX_IMAGE_PIXELS = pillow and max(pillow, max_pixels)
    try:
        yield
    finally:
        _limit.pop()
        PIL.Image.MAX_IMAGE_PIXELS = pillow


def read(
    path: StrPath, *, max_pixels: int | None = None, depth: Depth = UNKNOWN
) -> Pixels:
    """Reads an image file as RGB.

    Args:
      path: A PNG, JPEG, BMP, TIFF, PPM, WebP, GIF (its first frame), JPEG 2000 or AVIF.
      max_pixels: The largest width times height that is decoded; that of `pixel_limit`
        by default. Above 89 million, ``PIL.Image.MAX_IMAGE_PIXELS`` must be raised as
        well, which `pixel_limit` does.
      depth: What values of more than 8 bits mean.

    Returns:
      The image in 0 to 255: 8-bit files as ``uint8``, 16-bit and float files as
      ``float32``, not rounded, above 255 where a value is above white.

    Raises:
      ImageError: If the file is missing, empty, truncated, of no known format, larger
        than allowed, without pixels, or has values that are not finite or whose range
        is unknown (32-bit integers above 65535, floats outside 0 to 255).
    """
    return load(path, max_pixels, depth)[0]


def load(path: StrPath, max_pixels: int | None, depth: Depth) -> tuple[Pixels, Stored]:
    """Reads an image file as `read` does, and says how its values are kept.

    Args:
      path: The file.
      max_pixels: The largest width times height that is decoded; None for the default.
      depth: What values of more than 8 bits mean.

    Raises:
      ImageError: As in `read`.
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
    return _decode(file, str(file), max_pixels, depth)


def decode(
    data: bytes, *, name: str = "image", max_pixels: int | None = None
) -> Pixels:
    """Decodes the bytes of an image file as RGB, as `read` does.

    Args:
      data: The contents of a file.
      name: What errors call it.
      max_pixels: The largest width times height that is decoded.

    Raises:
      ImageError: As in `read`.
    """
    return _decode(io.BytesIO(data), name, max_pixels, UNKNOWN)[0]


def _decode(
    file: pathlib.Path | io.BytesIO, name: str, max_pixels: int | None, depth: Depth
) -> tuple[np.ndarray, Stored]:
    """Decodes an image, and makes any failure an `ImageError`."""
    limit = _limit[-1] if max_pixels is None else max_pixels
    try:
        with PIL.Image.open(file, formats=headers.formats()) as image:
            _check_size(name, image.size, limit)
            stored = depths.stored(image)
            image.load()
            _check_size(name, image.size, limit)
            if stored.kind == "colour" and (depth.bits or 16) < 16:
                array = _deep_colour(file, image, depth)
            else:
                array = _rgb(name, image, depth)
            return _upright(array, headers.orientation(image)), stored
    except ImageError:
        raise
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning) as e:
        remedy = "reduce it or raise the limit (max_pixels or --max-pixels)"
        raise ImageError(f"{name}: {e}; {remedy}") from e
    except PermissionError as e:
        raise ImageError(f"{name}: no permission to read it") from e
    except PIL.UnidentifiedImageError as e:
        remedy = "copy it again or convert it to PNG"
        raise ImageError(f"{name}: no image of a known format; {remedy}") from e
    except Exception as e:  # A damaged file can raise nearly anything in Pillow.
        reason = str(e) or type(e).__name__
        remedy = "it is damaged or cut short, copy it again or leave it out"
        raise ImageError(f"{name}: cannot be decoded ({reason}); {remedy}") from e


def _check_size(file: str, size: tuple[int, int], max_pixels: int) -> None:
    """Refuses images without pixels and images with too many."""
    width, height = size
    if width < 1 or height < 1:
        raise ImageError(f"{file}: {width} x {height} pixels; leave it out")
    if width * height > max_pixels:
        raise ImageError(
            f"{file}: {width} x {height} pixels are more than the limit of "
            f"{max_pixels}; reduce the image or raise the limit (max_pixels or "
            "--max-pixels)"
        )


def _rgb(file: str, image: PIL.Image.Image, depth: Depth) -> np.ndarray:
    """Converts a decoded image of any mode to (h, w, 3)."""
    if image.mode == "F" or image.mode.startswith("I"):
        return np.repeat(_deep_grey(file, image, depth)[..., None], 3, axis=-1)
    if image.mode in ("P", "PA", "RGBa", "La"):
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    return np.array(image.convert("RGB"), np.uint8)


def _deep_colour(
    file: pathlib.Path | io.BytesIO, image: PIL.Image.Image, depth: Depth
) -> np.ndarray:
    """Reads colours of 16-bit files that have fewer bits, both bytes of them."""
    if isinstance(file, io.BytesIO):
        file.seek(0)
    with PIL.Image.open(file, formats=headers.formats()) as other:
        depths.swap(other)
        other.load()
        return depths.colours(np.array(image), np.array(other), depth.bits or 16)


def _deep_grey(file: str, image: PIL.Image.Image, depth: Depth) -> np.ndarray:
    """Brings grey values of 16 bits or floats to 0 to 255 as float32."""
    values = np.asarray(image).astype(np.float64)
    limit = 255 if image.mode == "F" else 65535
    if not (values.min() >= 0 and values.max() <= limit):
        raise ImageError(
            f"{file}: values from {values.min():g} to {values.max():g}, "
            f"expected 0 to {limit}; scale them and save as 8 or 16 bits"
        )
    if image.mode == "F":
        white = depth.white or (1.0 if values.max() <= 1 else 255.0)
        return (values / (white / 255)).astype(np.float32)
    return (values / depths.divisor(depth.bits)).astype(np.float32)


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


def levels(image: Num[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    """Returns an image in whole levels of 8 bits.

    Args:
      image: Any real values; rounded and clipped to 0 to 255.

    Returns:
      The image itself where it is of that type already.
    """
    if image.dtype == np.uint8:
        return image
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def write_png(
    path: StrPath, image: Num[np.ndarray, "h w *c"], *, software: str = ""
) -> None:
    """Writes an image as an 8-bit PNG, atomically.

    Args:
      path: The file to write.
      image: Grey (h, w) or colour (h, w, 3), rounded and clipped to 0 to 255.
      software: What the file says that it was made by, if anything.

    Raises:
      ValueError: If the shape is another one, or a value is NaN.
    """
    if not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
        raise ValueError(f"image must be (h, w) or (h, w, 3), not {image.shape}")
    if image.dtype.kind == "f" and np.isnan(image).any():
        raise ValueError("image has NaN in it")
    text = PIL.PngImagePlugin.PngInfo()
    if software:
        text.add_text("Software", software)
    with files.atomic(path) as file:
        PIL.Image.fromarray(levels(image)).save(
            file, format="PNG", pnginfo=text, compress_level=PRESSED
        )
