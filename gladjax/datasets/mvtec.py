"""MVTec AD, and the data sets that share its layout.

A category is a folder with ``train/good``, ``test/<kind>`` and, for each anomalous test
image, ``ground_truth/<kind>/<stem>_mask.png`` (or without ``_mask``, or in another
format).

Notation: none.

Differs from the reference in: there is none.

Reference: Bergmann, Fauser, Sattlegger, Steger. "MVTec AD: A Comprehensive Real-World
Dataset for Unsupervised Anomaly Detection". CVPR 2019. Licence CC BY-NC-SA 4.0.
"""

import pathlib
from collections.abc import Iterator

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
)
from gladjax.datasets.truth import find_mask

CATEGORIES = {
    "textures": ("carpet", "grid", "leather", "tile", "wood"),
    "objects": (
        *("bottle", "cable", "capsule", "hazelnut", "metal_nut"),
        *("pill", "screw", "toothbrush", "transistor", "zipper"),
    ),
}
"""The fifteen categories of MVTec AD; textures need no alignment."""


def mvtec(
    root: StrPath, category: str, *, skip_bad: bool = False, train: bool = True
) -> Dataset:
    """Lists one category of MVTec AD, or of any folder in its layout.

    Args:
      root: The folder that holds the categories.
      category: The folder of the category.
      skip_bad: Whether bad records are left out and counted.
      train: Whether there must be training images.

    Returns:
      The training images, all normal, and the test images of every kind.

    Raises:
      DatasetError: If the category is unknown, or ``train/good`` is needed and empty.
    """
    folder = find_category(root, category, needs="train" if train else "test")
    records = list(tree(folder, "test", masks="ground_truth"))
    if train or (folder / "train").is_dir():
        records.extend(tree(folder, "train"))
    return build("mvtec", category, records, skip_bad=skip_bad, train=train)


def tree(
    folder: pathlib.Path,
    split: Split,
    *,
    part: str = "",
    masks: str = "",
    good: str = GOOD,
    ending: str = "_mask",
) -> Iterator[Record]:
    """Yields the records of a folder whose subfolders are kinds.

    Args:
      folder: The folder of the category.
      split: Which split the records belong to.
      part: The folder that holds the kinds; the name of the split by default.
      masks: The folder of masks, by kind; none for a training split.
      good: What the folder of normal images is called.
      ending: What the name of a mask has after the stem of its image, if it has not
        nothing.

    Raises:
      DatasetError: If a training split has no normal images.
    """
    kinds = folder / (part or split)
    if split == "train":
        if not list_images(kinds / good):
            raise DatasetError(f"{kinds / good}: no images here; put normal ones in")
        for path in list_images(kinds / good):
            yield Record(path, 0, GOOD, None, split)
        return
    for kind in list_folders(kinds):
        for path in list_images(kind):
            if kind.name == good:
                yield Record(path, 0, GOOD, None, split)
            elif kind != folder / masks:
                stems = (path.stem + ending, path.stem)
                mask = find_mask(folder / masks / kind.name, *stems)
                yield Record(path, 1, kind.name, mask, split)
