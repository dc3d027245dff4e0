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
      notes: What a user should know of how the layout was understood, in words.
    """

    name: str
    category: str
    records: tuple[Record, ...]
    errors: tuple[ValueError, ...] = ()
    notes: tuple[str, ...] = ()

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
    notes: Iterable[str] = (),
    train: bool = True,
) -> Dataset:
    """Sorts and checks records, as every loader does last.

    Args:
      name: The data set.
      category: The category.
      records: The records in any order.
      skip_bad: Whether records whose image file is missing are left out and listed in
        ``errors``, instead of refused.
      errors: Why records were left out before.
      notes: What a user should know.
      train: Whether there must be something normal to train on, or else to test.

    Returns:
      The data set; a record whose mask is missing has ``None`` for it.

    Raises:
      DatasetError: If an image is missing, or occurs in both splits or twice, a
        training record is anomalous, a kind is no plain name, or nothing is left to
        train on or to test.
    """
    good, bad = [], list(errors)
    for record in sorted(records, key=_order):
        problem = _problem(record)
        if problem is None:
            missing = record.mask is not None and not record.mask.exists()
            good.append(record._replace(mask=None) if missing else record)
        elif skip_bad:
            bad.append(DatasetError(problem))
        else:
            raise DatasetError(problem)
    counts = collections.Counter(record.image for record in good)
    for path, count in counts.items():
        if count > 1:
            raise DatasetError(f"{path}: listed {count} times; list it once")
    told = [*notes, *_taken_as_anomalous(good)]
    dataset = Dataset(name, category, tuple(good), tuple(bad), tuple(told))
    if train and not dataset.train:
        raise DatasetError(f"{name}, {category}: no normal training images")
    if not train and not dataset.test:
        why = f" ({bad[0]})" if bad else ""
        raise DatasetError(f"{name}, {category}: no test images{why}")
    return dataset


def _taken_as_anomalous(records: Iterable[Record]) -> list[str]:
    """Returns a note on kinds that count as anomalous and are called as if normal."""
    kinds = {r.kind for r in records if r.label and r.kind.lower() in images.NORMAL}
    return [f"the kind {kind!r} counts as anomalous" for kind in sorted(kinds)]


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
    return None


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
