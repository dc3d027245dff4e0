"""Any folder of images: what a user has before there is a data set.

All images are normal training ones. Whoever has test images puts them in ``test``,
normal ones in ``test/good``, anomalous ones in ``test/<kind>``, and masks, if there are
any, in ``ground_truth/<kind>/<stem>_mask.png``, as in MVTec AD.

Notation: none.

Differs from the reference in: there is none.

Reference: there is none.
"""

import os
import pathlib

from gladjax import images
from gladjax.datasets.base import (
    GOOD,
    Dataset,
    DatasetError,
    Record,
    StrPath,
    build,
    list_folders,
)
from gladjax.datasets.mvtec import tree

_RESERVED = ("test", "ground_truth")


def folder(
    root: StrPath, *, category: str | None = None, skip_bad: bool = False
) -> Dataset:
    """Lists the images of a folder.

    Training images are those of ``train/good`` if it exists, else those of ``train``,
    else all images in the folder and the folders in it, but for ``test`` and
    ``ground_truth``. Symbolic links to folders are not followed, hidden folders are
    left out.

    Args:
      root: The folder.
      category: A name for the results; the folder's name by default.
      skip_bad: Whether bad records are left out and counted.

    Returns:
      The images; an anomalous one without a mask has ``None`` for it.

    Raises:
      DatasetError: If there is no such folder, or no image to train on, or the folder
        holds several data sets.
    """
    base = pathlib.Path(root)
    if not base.is_dir():
        raise DatasetError(f"{base}: no such folder; set it to where the images are")
    many = [f.name for f in list_folders(base) if (f / "train").is_dir()]
    if many:
        there = ", ".join(many)
        raise DatasetError(f"{base}: it holds several data sets, name one: {there}")
    choices = (base / "train" / GOOD, base / "train", base)
    start = next(choice for choice in choices if choice.is_dir())
    found = _below(start, leave_out=_RESERVED if start == base else ())
    if not found:
        raise DatasetError(f"{start}: no images here; put normal ones in")
    records = [Record(path, 0, GOOD, None, "train") for path in found]
    for record in tree(base, "test", masks="ground_truth"):
        there = record.mask is not None and record.mask.exists()
        records.append(record if there else record._replace(mask=None))
    name = category or base.resolve().name or "folder"
    return build("folder", name, records, skip_bad=skip_bad)


def _below(start: pathlib.Path, *, leave_out: tuple[str, ...]) -> list[pathlib.Path]:
    """Returns all images below a folder, sorted, but for some folders in it."""
    found = []
    for here, folders, names in os.walk(start):
        at_top = pathlib.Path(here) == start
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and not (at_top and name in leave_out)
        ]
        found.extend(
            pathlib.Path(here, name)
            for name in names
            if not name.startswith(".")
            and pathlib.PurePath(name).suffix.lower() in images.SUFFIXES
        )
    return sorted(found)
