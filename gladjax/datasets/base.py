"""What a data set is here: a tuple of records, each a path with a label.

Nothing is read until it is needed. A loader walks folders or a table, finds for each
image its label, its kind of defect and its mask, checks that all of it is there, and
returns a `Dataset`. Images are read later, one at a time, by `gladjax.images`.

Notation: label 0 is normal, 1 is anomalous; a mask is true at anomalous pixels.

Differs from the reference in: there is none.

Reference: Bergmann et al. "MVTec AD". CVPR 2019, whose layout is the common one.
"""

import collections
import dataclasses
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool

from gladjax import files, images

StrPath = str | os.PathLike[str]
Split = Literal["train", "test"]

GOOD = "good"
"""The kind of a normal image."""


class DatasetError(ValueError):
    """A data set that is not as its layout says; the message names file and remedy."""


class Record(NamedTuple):
    """One image of a data set.

    Attributes:
      image: The image file.
      label: 0 normal, 1 anomalous.
      kind: The type of defect, or ``"good"``.
      mask: The file of anomalous pixels, or a folder of files to unite; ``None`` for
        normal images and where there is none.
      split: ``"train"`` or ``"test"``.
    """

    image: pathlib.Path
    label: int
    kind: str
    mask: pathlib.Path | None
    split: Split


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The records of one category.

    Attributes:
      name: The data set, such as ``"mvtec"``.
      category: The category, such as ``"transistor"``.
      records: All records, training ones first, sorted by kind and path.
      errors: Why records were left out, where the caller asked to skip bad ones.
    """

    name: str
    category: str
    records: tuple[Record, ...]
    errors: tuple[ValueError, ...] = ()

    @property
    def train(self) -> tuple[Record, ...]:
        """The records of the training split."""
        return tuple(record for record in self.records if record.split == "train")

    @property
    def test(self) -> tuple[Record, ...]:
        """The records of the test split."""
        return tuple(record for record in self.records if record.split == "test")

    @property
    def has_masks(self) -> bool:
        """Whether every anomalous test image has a mask, and there is one at all."""
        masks = [record.mask for record in self.test if record.label]
        return bool(masks) and all(mask is not None for mask in masks)


def build(
    name: str,
    category: str,
    records: Iterable[Record],
    *,
    skip_bad: bool = False,
    errors: Iterable[ValueError] = (),
) -> Dataset:
    """Sorts and checks records, as every loader does last.

    Args:
      name: The data set.
      category: The category.
      records: The records in any order.
      skip_bad: Whether records whose mask or image file is missing are left out and
        listed in ``errors``, instead of refused.
      errors: Why records were left out before.

    Raises:
      DatasetError: If a file is missing, an image occurs in both splits or twice, a
        training record is anomalous, a kind is no plain name, or nothing normal is left
        to train on.
    """
    good, bad = [], list(errors)
    for record in sorted(records, key=_order):
        problem = _problem(record)
        if problem is None:
            good.append(record)
        elif skip_bad:
            bad.append(DatasetError(problem))
        else:
            raise DatasetError(problem)
    counts = collections.Counter(record.image for record in good)
    for path, count in counts.items():
        if count > 1:
            raise DatasetError(f"{path}: listed {count} times; list it once")
    dataset = Dataset(name, category, tuple(good), tuple(bad))
    if not dataset.train:
        raise DatasetError(f"{name}, {category}: no normal training images")
    return dataset


def _order(record: Record) -> tuple[bool, bool, str, pathlib.Path]:
    """Training first, good kinds first, then by name."""
    return record.split == "test", record.label == 1, record.kind, record.image


def _problem(record: Record) -> str | None:
    """Returns what is wrong with a record, or nothing."""
    if record.split == "train" and record.label:
        return f"{record.image}: anomalous, but listed for training; move it to test"
    if len(pathlib.PureWindowsPath(record.kind).parts) != 1 or record.kind == "..":
        return f"{record.image}: the kind {record.kind!r} is no plain name; rename it"
    if not record.image.is_file():
        return f"{record.image}: no such image; correct the path or leave it out"
    if record.mask is not None and not record.mask.exists():
        return f"{record.mask}: the mask of {record.image} is missing; add it"
    return None


def readable(dataset: Dataset, *, skip_bad: bool = False) -> Dataset:
    """Reads every image and mask once, and refuses or leaves out bad ones.

    Args:
      dataset: The data set.
      skip_bad: Whether bad records are left out and listed in ``errors``.

    Returns:
      The data set of the readable records.

    Raises:
      ImageError: If an image or mask is unreadable and is not to be skipped.
      DatasetError: If a mask does not fit its image and is not to be skipped, or no
        training record is left.
    """
    lazy = images.Lazy(record.image for record in dataset.records)
    good, errors = [], []
    for record, outcome in zip(dataset.records, images.outcomes(lazy), strict=True):
        try:
            if isinstance(outcome, images.ImageError):
                raise outcome
            if record.mask is not None:
                read_mask(record)
            good.append(record)
        except (images.ImageError, DatasetError) as error:
            if not skip_bad:
                raise
            errors.append(error)
    found = dataclasses.replace(
        dataset, records=tuple(good), errors=dataset.errors + tuple(errors)
    )
    if not found.train:
        raise DatasetError(f"{dataset.name}: no training image is readable")
    return found


def read_mask(
    record: Record, *, shape: tuple[int, int] | None = None
) -> Bool[np.ndarray, "h w"]:
    """Reads the anomalous pixels of a record.

    Args:
      record: A record with a mask, or a normal one.
      shape: The height and width wanted; the image's own by default. The mask is
        brought there by nearest neighbour with half-pixel centres.

    Returns:
      True where the mask is not black; all false for a normal image.

    Raises:
      DatasetError: If the image is anomalous and has no mask, or mask and image differ
        in size.
      ImageError: If the mask, or the header of the image, is unreadable.
    """
    size = images.shape(record.image)
    height, width = size if shape is None else shape
    if record.mask is None:
        if record.label:
            raise DatasetError(f"{record.image}: anomalous, but there is no mask")
        return np.zeros((height, width), bool)
    parts = list_images(record.mask) if record.mask.is_dir() else [record.mask]
    if not parts:
        raise DatasetError(f"{record.mask}: no mask in this folder; add one")
    whole = np.zeros(size, bool)
    for part in parts:
        mask = images.read(part).any(axis=-1)
        if mask.shape != size:
            found = " x ".join(map(str, mask.shape))
            raise DatasetError(
                f"{part}: the mask is {found} pixels, its "
                f"image {record.image} is {size[0]} x {size[1]}; make them equal"
            )
        whole |= mask
    rows = (2 * np.arange(height) + 1) * size[0] // (2 * height)
    columns = (2 * np.arange(width) + 1) * size[1] // (2 * width)
    return whole[np.ix_(rows, columns)]


def list_images(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the image files directly in a folder, sorted; none if it is missing."""
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in images.SUFFIXES and not path.name.startswith(".")
    )


def list_folders(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the folders directly in a folder, sorted; none if it is missing."""
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_dir() and not path.name.startswith(".")
    )


def find_category(
    root: StrPath, category: str, *, needs: str = "train"
) -> pathlib.Path:
    """Returns the folder of a category.

    Args:
      root: The folder of the data set.
      category: The name of a folder in it.
      needs: What a category's folder contains, by which others are listed.

    Raises:
      DatasetError: If there is no such folder; it lists those that there are.
    """
    base = pathlib.Path(root)
    if not base.is_dir():
        raise DatasetError(f"{base}: no such folder; set it to where the data are")
    known = [path.name for path in list_folders(base) if (path / needs).exists()]
    if category not in known:
        listed = ", ".join(known) or f"none (no folder with {needs} in it)"
        raise DatasetError(f"{base}: no category {category!r}; there are: {listed}")
    return files.inside(base, category)


def take(paths: Sequence[pathlib.Path]) -> list[pathlib.Path]:
    """Returns paths sorted and then permuted by ``numpy.random.RandomState(0)``."""
    order = np.random.RandomState(0).permutation(len(paths))
    ranked = sorted(paths)
    return [ranked[i] for i in order]
