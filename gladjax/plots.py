"""Pictures: heat maps over images, and maps of numbers as colours.

A picture is an RGB array of 8 bits, ready for `gladjax.images.write_png` or `png`. The
colours of a heat map run from nothing over red to yellow: what is at or below the lower
limit shows the image as it is, what is at or above the upper limit is brightest. Limits
that are the same for all pictures make them comparable; `limits` derives them from one
map and the threshold of the decision, so that a normal image stays calm.

Notation: ``h w`` pixels; ``low high`` the values at the ends of the colours.

Differs from the reference in: (1) the paper's colour map runs over all hues; here
lightness rises with the value, which also reads in grey.

Reference: Artola et al., "GLAD", WACV 2023, Figures 3 and 5.
"""

import functools
import io
from collections.abc import Sequence

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
from jaxtyping import Bool, Float, Int, Num, UInt8

from gladjax import images

Picture = UInt8[np.ndarray, "_h _w 3"]
Limits = tuple[float, float]

# Anchors at equal distances; lightness rises evenly.
HEAT = ((20, 8, 60), (105, 10, 95), (190, 40, 65), (240, 115, 20), (255, 245, 130))
COUNT = ((60, 10, 85), (55, 85, 140), (35, 145, 140), (110, 205, 90), (250, 230, 40))

STRENGTH = 0.75  # Of the heat map over the image, at most.
STEPS = 4096  # Shares of it that are told apart, by less than a level.
TEXT = 16  # Height of the letters, in pixels.
MAX_SIDE = 4096
"""The longest side of an image in a picture; longer ones are reduced."""


def colours(
    values: Num[np.ndarray, "h w"],
    *,
    limits: Limits | None = None,
    scale: Sequence[tuple[int, int, int]] = COUNT,
) -> Picture:
    """Returns a map of numbers as colours.

    Args:
      values: Any real numbers; NaN is black.
      limits: Values of the first and the last colour; the least and the largest finite
        value by default.
      scale: Colours at equal distances.

    Returns:
      The picture, interpolated between the colours of the scale.

    Raises:
      ValueError: If the limits are not finite.
    """
    values = np.asarray(values, np.float64)
    share = _share(values, limits)
    known = ~np.isnan(values)
    anchors = np.linspace(0, 1, len(scale))
    table = np.asarray(scale, np.float64)
    channels = [np.interp(share, anchors, table[:, c]) * known for c in range(3)]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)


def _share(values: np.ndarray, limits: Limits | None) -> np.ndarray:
    """Returns values between 0 at the lower and 1 at the upper limit."""
    if limits is None:
        finite = values[np.isfinite(values)]
        limits = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
    low, high = float(limits[0]), float(limits[1])
    if not np.isfinite([low, high]).all():
        raise ValueError(f"limits must be finite, not {low} and {high}")
    if high <= low:
        return (np.nan_to_num(values, nan=low) > low).astype(np.float64)
    return np.clip((np.nan_to_num(values, nan=low) - low) / (high - low), 0, 1)


def limits(
    heat_map: Float[np.ndarray, "h w"], *, threshold: float | None = None
) -> Limits:
    """Returns limits for one heat map.

    Args:
      heat_map: Higher is more anomalous.
      threshold: Score above which an image is anomalous, in the heat map's unit.

    Returns:
      The map's median, and its largest value or, if that is larger, what lies as far
      beyond the threshold as the median lies before it.
    """
    finite = np.asarray(heat_map, np.float64)
    finite = finite[np.isfinite(finite)]
    if not finite.size:
        return 0.0, 1.0
    low, high = float(np.median(finite)), float(finite.max())
    if threshold is not None and np.isfinite(threshold):
        high = max(high, 2 * threshold - low)
    return low, high


def overlay(
    image: Num[np.ndarray, "h w 3"],
    heat_map: Float[np.ndarray, "_h _w"],
    *,
    limits: Limits | None = None,
    strength: float = STRENGTH,
) -> Picture:
    """Returns an image with a heat map over it.

    Args:
      image: RGB, 0 to 255.
      heat_map: Higher is more anomalous; brought to the image's size bilinearly.
      limits: Values at which the heat map is invisible and at its strongest; those of
        `limits` by default.
      strength: Share of the heat map's colour at its strongest, in [0, 1].

    Returns:
      The picture, of the image's size.

    Raises:
      ValueError: If the strength is out of range or the limits are not finite.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"strength must be in [0, 1], not {strength}")
    chosen = _limits(heat_map) if limits is None else limits
    share = _share(np.asarray(heat_map, np.float64), chosen)
    share = images.resize(share[..., None], image.shape[:2])[..., 0]
    left, added = _mixing(float(strength))
    at = np.rint(np.sqrt(np.clip(share, 0, 1)) * (STEPS - 1)).astype(np.int16)
    return images.levels(left[at] * np.asarray(image, np.float32) + added[at])


@functools.lru_cache(maxsize=8)
def _mixing(strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns what heat leaves of an image and adds to it, by the root of its share."""
    roots = np.linspace(0, 1, STEPS)
    colour = colours(roots[None] ** 2, limits=(0.0, 1.0), scale=HEAT)[0]
    part = strength * roots[:, None]
    return (1 - part).astype(np.float32), (part * colour).astype(np.float32)


_limits = limits


def outline(
    image: Num[np.ndarray, "h w 3"],
    mask: Bool[np.ndarray, "_h _w"],
    *,
    colour: tuple[int, int, int] = (60, 220, 255),
) -> Picture:
    """Returns an image with the border of a mask drawn into it.

    Args:
      image: RGB, 0 to 255.
      mask: The area, brought to the image's size by nearest neighbour.
      colour: Of the border.

    Returns:
      The picture; pixels of the mask that touch one outside of it are coloured.
    """
    height, width = image.shape[:2]
    rows = (2 * np.arange(height) + 1) * mask.shape[0] // (2 * height)
    columns = (2 * np.arange(width) + 1) * mask.shape[1] // (2 * width)
    inside = np.asarray(mask)[np.ix_(rows, columns)]
    padded = np.pad(inside, 1)
    core = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    out = images.levels(image).copy()
    out[inside & ~core] = colour
    return out


def scored_picture(
    image: Num[np.ndarray, "h w 3"],
    heat_map: Float[np.ndarray, "_h _w"],
    score: float,
    *,
    limits: Limits | None = None,
    note: str = "",
) -> Picture:
    """Returns input, heat map over it and score in one picture.

    Args:
      image: RGB, 0 to 255.
      heat_map: Higher is more anomalous.
      score: The image's score.
      limits: Values at which the heat map is invisible and at its strongest.
      note: Words behind the score; characters outside of ASCII become question marks.

    Returns:
      The input at the left, the overlay at the right, the score above both.
    """
    image = reduced(image, MAX_SIDE)
    pair = beside([images.levels(image), overlay(image, heat_map, limits=limits)])
    text = f"score {score:.2f}" + (f"  {note}" if note else "")
    return titled(pair, text)


def reduced(image: Num[np.ndarray, "h w 3"], side: int) -> Num[np.ndarray, "_h _w 3"]:
    """Returns an image whose longer side is at most so long.

    Args:
      image: RGB, 0 to 255.
      side: The longer side allowed.

    Returns:
      The image itself, or reduced in its proportions as 8 bits.
    """
    height, width = image.shape[:2]
    longer = max(height, width)
    if longer <= side:
        return image
    shape = (max(1, width * side // longer), max(1, height * side // longer))
    whole = PIL.Image.fromarray(images.levels(image))
    picture = whole.resize(shape, PIL.Image.Resampling.BILINEAR)
    return np.asarray(picture)


def beside(pictures: Sequence[Picture], *, gap: int = 4) -> Picture:
    """Returns pictures side by side, white where a lower one ends.

    Args:
      pictures: One or more.
      gap: White pixels between them.

    Raises:
      ValueError: If there is none.
    """
    if not pictures:
        raise ValueError("there is no picture")
    height = max(picture.shape[0] for picture in pictures)
    parts = []
    for picture in pictures:
        room = ((0, height - picture.shape[0]), (0, gap), (0, 0))
        parts.append(np.pad(picture, room, constant_values=255))
    return np.concatenate(parts, axis=1)[:, :-gap] if gap else np.concatenate(parts, 1)


def titled(picture: Picture, text: str) -> Picture:
    """Returns a picture with a line of text above it, cut where it is too long.

    Args:
      picture: The picture.
      text: The line; characters outside of ASCII become question marks.
    """
    line = text.encode("ascii", "replace").decode().replace("\n", " ")
    try:
        font = PIL.ImageFont.load_default(size=TEXT)
    except (ImportError, OSError):  # A Pillow without FreeType has one size only.
        font = PIL.ImageFont.load_default()
    bar = PIL.Image.new("RGB", (picture.shape[1], TEXT + 8), "white")
    PIL.ImageDraw.Draw(bar).text((4, 2), line, fill="black", font=font)
    return np.concatenate([np.asarray(bar), picture], axis=0)


def weight_map(shares: Float[np.ndarray, "h w"], *, side: int = 256) -> Picture:
    """Returns the map of one component's local weights (Fig. 3, middle).

    Args:
      shares: ``pi_k(x)`` at every position.
      side: The longer side of the picture, in whole cells.
    """
    return enlarge(colours(shares, limits=(0.0, max(float(shares.max()), 1e-9))), side)


def activity_map(active: Int[np.ndarray, "h w"], *, side: int = 256) -> Picture:
    """Returns the map of the number of active components (Fig. 3, right).

    Args:
      active: Number of components with a weight at every position.
      side: The longer side of the picture, in whole cells.
    """
    return enlarge(colours(active), side)


def enlarge(picture: Picture, side: int) -> Picture:
    """Returns a picture whose pixels are squares, so that it is about ``side`` long.

    Args:
      picture: A small picture.
      side: The longer side wanted; a picture longer than that stays as it is.
    """
    times = max(1, side // max(picture.shape[:2]))
    return picture.repeat(times, axis=0).repeat(times, axis=1)


def png(picture: Picture) -> bytes:
    """Returns a picture as the bytes of a PNG file.

    Args:
      picture: The picture.
    """
    buffer = io.BytesIO()
    PIL.Image.fromarray(np.ascontiguousarray(picture)).save(buffer, format="PNG")
    return buffer.getvalue()
