"""Masks of anomalous pixels: read, judged, and what is missing said.

What is unambiguous is read: in a lossless file whatever is not black is anomalous, in a
lossy one such as JPEG what is brighter than half, since its black is not black. What is
missing is no error: pixel figures are of the images whose pixels are known, and a note
says how many those are.

Notation: a mask is true at anomalous pixels.

Differs from the reference in: there is none.

Reference: Bergmann et al. "MVTec AD". CVPR 2019, whose masks are the common ones.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from gladjax import images
from gladjax.datasets.base import Dataset, DatasetError, Record, StrPath, list_images

NEARLY_ALL = 0.95
"""A mask of a larger share of the image, or of its border, is told as odd."""


class Truth(NamedTuple):
    """What is known of the pixels of the test images.

    Attributes:
      masks: One per test image, all false for a normal one, None where it is not known;
        None instead of all where no anomalous pixel is known.
      num_masks: Number of anomalous images whose pixels are known.
      notes: How many masks there are, what is missing and what is odd, in words.
    """

    masks: list[Bool[np.ndarray, "h w"] | None] | None
    num_masks: int
    notes: tuple[str, ...]


def masks(dataset: Dataset, *, shape: tuple[int, int]) -> Truth:
    """Reads the masks of the test images.

    Args:
      dataset: The data set.
      shape: The height and width wanted.

    Raises:
      DatasetError: If a mask and its image differ in size.
      ImageError: If a mask, or the header of an image, is unreadable.
    """
    found: list[np.ndarray | None] = []
    missing, blank, odd = [], [], []
    for record in dataset.test:
        if not record.label:
            found.append(read_mask(record, shape=shape))
        elif record.mask is None:
            found.append(None)
            missing.append(str(record.image))
        else:
            whole = read_mask(record)
            found.append(_resized(whole, shape) if whole.any() else None)
            if not whole.any():
                blank.append(str(record.mask))
            elif _odd(whole):
                odd.append(str(record.mask))
    wanted = sum(record.label for record in dataset.test)
    known = wanted - len(missing) - len(blank)
    notes = _notes(known, wanted, missing, blank, odd)
    return Truth(found if known else None, known, notes)


def _odd(mask: Bool[np.ndarray, "h w"]) -> bool:
    """Whether a mask covers nearly the whole image or nearly its whole border."""
    border = (mask[0], mask[-1], mask[:, 0], mask[:, -1])
    shares = (mask.mean(), np.concatenate(border).mean())
    return max(map(float, shares)) > NEARLY_ALL


def _notes(
    known: int,
    wanted: int,
    missing: Sequence[str],
    blank: Sequence[str],
    odd: Sequence[str],
) -> tuple[str, ...]:
    if not wanted:
        return ("masks: no anomalous test images, so no pixel figures",)
    first = f"masks: {known} of {wanted} anomalous test images have one"
    if not known:
        first += ", so no pixel figures"
    elif known < wanted:
        first += "; pixel figures are of these and of the normal images"
    if missing and len(missing) < wanted:  # None at all: then there are no masks here.
        first += f"; missing: {images.named(missing)}"
    notes = [first]
    if blank:
        notes.append(
            "masks: all black, though the image is anomalous, so it does not count: "
            + images.named(blank)
        )
    if odd:
        notes.append(
            "masks: white nearly everywhere or all along the border; white must be "
            f"anomalous, is it inverted? {images.named(odd)}"
        )
    return tuple(notes)


def require(dataset: Dataset) -> None:
    """Refuses a data set in which the mask of an anomalous test image is not known.

    Args:
      dataset: The data set.

    Raises:
      DatasetError: If a mask is missing or all black.
      ImageError: If a mask is unreadable.
    """
    for record in dataset.test:
        if record.label and record.mask is None:
            raise DatasetError(f"{record.image}: its mask is missing; add it")
        if record.label and not read_mask(record).any():
            raise DatasetError(f"{record.mask}: the mask is all black; paint it")


def read_mask(
    record: Record, *, shape: tuple[int, int] | None = None
) -> Bool[np.ndarray, "h w"]:
    """Reads the anomalous pixels of a record.

    Args:
      record: A record with a mask, or a normal one.
      shape: The height and width wanted; the image's own by default. The mask is
        brought there by nearest neighbour with half-pixel centres.

    Returns:
      True at anomalous pixels, see `anomalous`; all false for a normal image.

    Raises:
      DatasetError: If the image is anomalous and has no mask, or mask and image differ
        in size.
      ImageError: If the mask, or the header of the image, is unreadable.
    """
    size = images.shape(record.image)
    if record.mask is None:
        if record.label:
            raise DatasetError(f"{record.image}: anomalous, but there is no mask")
        return np.zeros(size if shape is None else shape, bool)
    parts = list_images(record.mask) if record.mask.is_dir() else [record.mask]
    if not parts:
        raise DatasetError(f"{record.mask}: no mask in this folder; add one")
    whole = np.zeros(size, bool)
    for part in parts:
        mask = anomalous(part)
        if mask.shape != size:
            found = " x ".join(map(str, mask.shape))
            raise DatasetError(
                f"{part}: the mask is {found} pixels, its "
                f"image {record.image} is {size[0]} x {size[1]}; make them equal"
            )
        whole |= mask
    return _resized(whole, shape or size)


def _resized(
    mask: Bool[np.ndarray, "h w"], shape: tuple[int, int]
) -> Bool[np.ndarray, "h2 w2"]:
    """Returns a mask of another size, by the nearest neighbour."""
    (height, width), size = shape, mask.shape
    rows = (2 * np.arange(height) + 1) * size[0] // (2 * height)
    columns = (2 * np.arange(width) + 1) * size[1] // (2 * width)
    return mask[np.ix_(rows, columns)]


def anomalous(path: StrPath) -> Bool[np.ndarray, "h w"]:
    """Reads one file of anomalous pixels.

    Args:
      path: The file.

    Returns:
      True where it is not black; in a lossy format, where it is brighter than half.

    Raises:
      ImageError: If it is unreadable.
    """
    array = images.read(path)
    bright = array > 127.5 if images.lossy(path) else array != 0
    return bright[..., 0] | bright[..., 1] | bright[..., 2]


def find_mask(folder: pathlib.Path, *stems: str) -> pathlib.Path | None:
    """Returns the mask of an image: a folder, or an image file of any format.

    Args:
      folder: Where it may be.
      stems: What it may be called without its ending, the likeliest first; upper and
        lower case are told apart only where both are there.

    Returns:
      The mask; None if there is none.
    """
    for stem in stems:
        if (folder / stem).is_dir():
            return folder / stem
        for suffix in (".png", ".bmp", ".tif", ".jpg", ".PNG"):
            if (folder / (stem + suffix)).is_file():
                return folder / (stem + suffix)
    there = {path.stem.lower(): path for path in reversed(list_images(folder))}
    return next((there[s.lower()] for s in stems if s.lower() in there), None)


def readable(
    dataset: Dataset,
    *,
    skip_bad: bool = False,
    told: Callable[[Record, images.Facts], None] | None = None,
) -> Dataset:
    """Reads every image and mask once, and refuses or leaves out bad ones.

    Args:
      dataset: The data set.
      skip_bad: Whether bad records are left out and listed in ``errors``.
      told: Called with each readable record and what is known of its image.

    Returns:
      The data set of the readable records.

    Raises:
      ImageError: If an image or mask is unreadable and is not to be skipped.
      DatasetError: If a mask does not fit its image and is not to be skipped, or of the
        training records none is left.
    """
    paths = (record.image for record in dataset.records)
    lazy = images.Lazy(paths, read=images.facts)
    good, errors = [], []
    for record, outcome in zip(dataset.records, images.outcomes(lazy), strict=True):
        try:
            if isinstance(outcome, images.ImageError):
                raise outcome
            if record.mask is not None:
                read_mask(record)
            good.append(record)
            if told is not None:
                told(record, outcome)
        except (images.ImageError, DatasetError) as error:
            if not skip_bad:
                raise
            errors.append(error)
    found = dataclasses.replace(
        dataset, records=tuple(good), errors=dataset.errors + tuple(errors)
    )
    if dataset.train and not found.train:
        raise DatasetError(f"{dataset.name}: no training image is readable")
    return found
