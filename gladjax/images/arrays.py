"""Images that come as arrays, in the form that `gladjax.images.read` gives.

An array says less than a file: nothing in it tells 0 to 1 from a nearly black picture
of 0 to 255. So one range is expected, and whatever cannot be in it is refused by name
rather than scored as something else. The type does not matter, only the values: whole
numbers are the 8-bit image that they describe, whatever type holds them.

Notation: ``h w`` height, width.

Differs from the reference in: there is none.

Reference: there is none.
"""

import numpy as np
from jaxtyping import Shaped

from gladjax.images.depths import UNKNOWN, Depth
from gladjax.images.headers import ImageError, StrPath
from gladjax.images.pixels import Pixels, read

_SLACK = 0.5  # Of a level: what rounding may add.
_EXPECTED = "expected RGB, 0 to 255"


def standard(image: Shaped[np.ndarray, "..."], *, name: str = "image") -> Pixels:
    """Returns an image as `read` would, of whatever numbers it is made.

    Args:
      image: RGB, 0 to 255, ``(h, w, 3)``: integers or floats of any type.
      name: What errors call it.

    Returns:
      The image as ``uint8`` where all values are whole, else as ``float32``. An image
      of ``uint8`` is returned as it is.

    Raises:
      ImageError: If the shape or the type is another one, a value is NaN or infinite,
        a value is outside of 0 to 255 by more than rounding, or no value of floats is
        above 1, which is the range of images of 0 to 1.

    Example:
      >>> standard(np.full((1, 1, 3), 128.0)).dtype
      dtype('uint8')
    """
    array = np.asarray(image)
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ImageError(
            f"{name}: its shape is {array.shape}, expected (height, width, 3)"
        )
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind in "bcmMOSU":
        raise ImageError(f"{name}: its values are of type {array.dtype}; {_EXPECTED}")
    values = array.astype(np.float32)
    if not np.isfinite(values).all():
        count = int((~np.isfinite(values)).any(axis=-1).sum())
        raise ImageError(f"{name}: {count} of its pixels are NaN or infinite")
    low, high = float(values.min()), float(values.max())
    if not (low >= -_SLACK and high <= 255 + _SLACK):
        raise ImageError(f"{name}: values from {low:g} to {high:g}; {_EXPECTED}")
    if array.dtype.kind not in "iu" and 0 < high <= 1:
        raise ImageError(
            f"{name}: values from {low:g} to {high:g}; {_EXPECTED}: multiply by 255, "
            "or give uint8 if it is nearly black"
        )
    whole = np.rint(values)
    return whole.astype(np.uint8) if np.array_equal(whole, values) else values


def photograph(path: StrPath, *, depth: Depth = UNKNOWN) -> Pixels:
    """Reads an image file as what is learnt from and scored: `read`, then `saturated`.

    Args:
      path: The file.
      depth: What values of more than 8 bits mean.

    Raises:
      ImageError: As in `read`.
    """
    return saturated(read(path, depth=depth))


def saturated(image: Pixels) -> Pixels:
    """Returns an image of a file in the range that `standard` expects.

    Args:
      image: From `read`.

    Returns:
      The image, white where a value is above white; rounded to ``uint8``, since it is
      black, where no value is above 1.
    """
    if image.dtype == np.uint8:
        return image
    black = image.max() <= 1
    return np.rint(image).astype(np.uint8) if black else np.minimum(image, 255)
