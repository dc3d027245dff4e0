"""Data sets of surfaces, in which the label of an image lies in its mask.

==================  ====================================  ==========================
data set            images                                masks
==================  ====================================  ==========================
DAGM 2007           ``Class<n>/{Train,Test}/<stem>.PNG``  ``Label/<stem>_label.PNG``
                                                          of defective images only
KolektorSDD         ``kos<nn>/Part<n>.jpg``               ``Part<n>_label.bmp``
KolektorSDD2        ``{train,test}/<stem>.png``           ``<stem>_GT.png``
Magnetic tile       ``MT_<Kind>/Imgs/<stem>.jpg``         ``<stem>.png`` beside it
==================  ====================================  ==========================

Kolektor masks are all black where nothing is wrong.

Notation: none.

Differs from the reference in:

1. All four were made for learning with labels. Here only normal images are for
   training: defective ones in an official training part (DAGM, KolektorSDD2) are left
   out, not moved.
2. KolektorSDD has folds for cross-validation, the magnetic tiles no split at all. Ours:
   the normal images of the first two thirds of the items (KolektorSDD), or of a fixed
   permutation (`gladjax.datasets.base.take`) the first 80 % (tiles), are for training,
   all other normal and all defective ones for testing.

Reference: Wieler, Hahn. "Weakly supervised learning for industrial optical inspection".
DAGM symposium 2007. Tabernik et al. "Segmentation-based deep-learning approach for
surface-defect detection". J. Intelligent Manufacturing 31, 2020. Bozic et al. "Mixed
supervision for surface-defect detection". Computers in Industry 129, 2021. Huang et al.
"Surface defect saliency of magnetic tile". The Visual Computer 36, 2020.
"""

import pathlib
from collections.abc import Iterator

from gladjax import images
from gladjax.datasets.base import (
    GOOD,
    Dataset,
    DatasetError,
    Record,
    Split,
    StrPath,
    build,
    find_category,
    list_folders,
    list_images,
    take,
)
from gladjax.datasets.truth import anomalous, find_mask

DEFECTIVE = "defective"


def dagm(root: StrPath, category: str, *, skip_bad: bool = False) -> Dataset:
    """Lists one class of DAGM 2007.

    Args:
      root: The folder that holds ``Class1`` to ``Class10``.
      category: The folder of the class.
      skip_bad: Whether bad records are left out and counted.

    Raises:
      DatasetError: If the class is unknown or has no normal training images.
    """
    folder = find_category(root, category, needs="Train")
    records = [*_dagm(folder / "Train", "train"), *_dagm(folder / "Test", "test")]
    return build("dagm", category, records, skip_bad=skip_bad)


def _dagm(folder: pathlib.Path, split: Split) -> Iterator[Record]:
    """Yields one part of a class: defective is what has a mask."""
    for path in list_images(folder):
        mask = find_mask(folder / "Label", f"{path.stem}_label")
        if mask is None:
            yield Record(path, 0, GOOD, None, split)
        elif split == "test":
            yield Record(path, 1, DEFECTIVE, mask, split)


def kolektor_sdd(
    root: StrPath, *, category: str = "kolektor_sdd", skip_bad: bool = False
) -> Dataset:
    """Lists KolektorSDD, commutators with cracks; every mask is read.

    Args:
      root: The folder that holds ``kos01`` to ``kos50``.
      category: A name for the results.
      skip_bad: Whether bad records are left out and counted.

    Raises:
      DatasetError: If there are no items or no normal training images.
      ImageError: If a mask is unreadable.
    """
    items = [f for f in list_folders(pathlib.Path(root)) if f.name.startswith("kos")]
    if not items:
        raise DatasetError(f"{root}: no folders kos01, kos02, ... here")
    records, errors = [], []
    for number, item in enumerate(items):
        split: Split = "train" if 3 * number < 2 * len(items) else "test"
        records.extend(
            _by_mask(
                item,
                split,
                "_label",
                keep_defective=True,
                errors=errors if skip_bad else None,
            )
        )
    return build("kolektor_sdd", category, records, skip_bad=skip_bad, errors=errors)


def kolektor_sdd2(
    root: StrPath, *, category: str = "kolektor_sdd2", skip_bad: bool = False
) -> Dataset:
    """Lists KolektorSDD2; every mask is read.

    Args:
      root: The folder that holds ``train`` and ``test``.
      category: A name for the results.
      skip_bad: Whether bad records are left out and counted.

    Raises:
      DatasetError: If there are no normal training images.
      ImageError: If a mask is unreadable.
    """
    folder = pathlib.Path(root)
    if not (folder / "train").is_dir():
        raise DatasetError(f"{folder}: no folder train here; set it to where it is")
    errors: list[ValueError] = []
    kept = errors if skip_bad else None
    splits: tuple[Split, ...] = ("train", "test")
    records = [
        record
        for split in splits
        for record in _by_mask(
            folder / split, split, "_GT", keep_defective=split == "test", errors=kept
        )
    ]
    return build("kolektor_sdd2", category, records, skip_bad=skip_bad, errors=errors)


def _by_mask(
    folder: pathlib.Path,
    split: Split,
    ending: str,
    *,
    keep_defective: bool,
    errors: list[ValueError] | None,
) -> Iterator[Record]:
    """Yields a folder whose masks lie beside the images, black where all is well.

    Defective images are for testing, or left out. A missing or unreadable mask, without
    which nothing is known of an image, is raised, or put on the list of errors.
    """
    for path in list_images(folder):
        if path.stem.endswith(ending):
            continue
        mask = find_mask(folder, path.stem + ending)
        try:
            if mask is None:
                raise DatasetError(f"{path}: its mask {ending} is missing; add it")
            normal = not anomalous(mask).any()
        except (images.ImageError, DatasetError) as error:
            if errors is None:
                raise
            errors.append(error)
            continue
        if normal:
            yield Record(path, 0, GOOD, None, split)
        elif keep_defective:
            yield Record(path, 1, DEFECTIVE, mask, "test")


def magnetic_tile(
    root: StrPath, *, category: str = "magnetic_tile", skip_bad: bool = False
) -> Dataset:
    """Lists the magnetic tile defects.

    Args:
      root: The folder that holds ``MT_Free``, ``MT_Blowhole`` and so on.
      category: A name for the results.
      skip_bad: Whether bad records are left out and counted.

    Raises:
      DatasetError: If there are no normal images.
    """
    folder = pathlib.Path(root)
    normal = take(_photographs(folder / "MT_Free"))
    if not normal:
        raise DatasetError(
            f"{folder}: no images in MT_Free/Imgs; set it to where it is"
        )
    bound = -(-4 * len(normal) // 5)
    records = [Record(path, 0, GOOD, None, "train") for path in normal[:bound]]
    records.extend(Record(path, 0, GOOD, None, "test") for path in normal[bound:])
    for part in list_folders(folder):
        if part.name.startswith("MT_") and part.name != "MT_Free":
            kind = part.name.removeprefix("MT_").lower()
            for path in _photographs(part):
                mask = path.with_suffix(".png")
                records.append(Record(path, 1, kind, mask, "test"))
    return build("magnetic_tile", category, records, skip_bad=skip_bad)


def _photographs(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the JPEG files of a kind; the PNG files are masks."""
    return [p for p in list_images(folder / "Imgs") if p.suffix.lower() == ".jpg"]
