"""Data sets whose folders are kinds, as in MVTec AD, with names of their own.

=============  ==================================  ===================================
data set       images                              masks
=============  ==================================  ===================================
MVTec AD 2     ``train/good``, ``validation/good`` ``test_public/ground_truth/bad/``
               ``test_public/{good,bad}``          ``<stem>_mask.png``
MVTec LOCO AD  ``train/good``, ``validation/good`` ``ground_truth/<kind>/<stem>/``
               ``test/{good,logical_anomalies,``   several files, to be united
               ``structural_anomalies}``
MPDD           as MVTec AD                         as MVTec AD
BTAD           ``train/ok``, ``test/{ok,ko}``      ``ground_truth/ko/<stem>``, PNG or
                                                   BMP
=============  ==================================  ===================================

Notation: none.

Differs from the reference in:

1. MVTec AD 2: the private test images have no published labels and are not listed.
2. MVTec LOCO AD: the saturation areas of its own metric are not read; masks count as
   they are.

Reference: Heckler-Kram et al. "The MVTec AD 2 Dataset". 2025. Bergmann et al. "Beyond
Dents and Scratches". IJCV 130, 2022 (LOCO). Jezek et al. "Deep learning-based defect
detection of metal parts". ICUMT 2021 (MPDD). Mishra et al. "VT-ADL". ISIE 2021 (BTAD).
"""

import pathlib
from collections.abc import Iterator

from gladjax.datasets.base import Dataset, Record, StrPath, build, find_category
from gladjax.datasets.mvtec import tree


def mvtec_ad2(
    root: StrPath, category: str, *, validation: bool = False, skip_bad: bool = False
) -> Dataset:
    """Lists one category of MVTec AD 2: its public part.

    Args:
      root: The folder that holds the categories, such as ``can``.
      category: The folder of the category.
      validation: Whether the normal validation images join the training ones.
      skip_bad: Whether bad records are left out and counted.

    Raises:
      DatasetError: If the category is unknown, or there are no training images.
    """
    folder = find_category(root, category)
    masks = "test_public/ground_truth"
    records = [
        *_normal(folder, validation=validation),
        *tree(folder, "test", part="test_public", masks=masks),
    ]
    return build("mvtec_ad2", category, records, skip_bad=skip_bad)


def mvtec_loco(
    root: StrPath, category: str, *, validation: bool = False, skip_bad: bool = False
) -> Dataset:
    """Lists one category of MVTec LOCO AD; a mask is a folder of files to unite.

    Args:
      root: The folder that holds the categories, such as ``breakfast_box``.
      category: The folder of the category.
      validation: Whether the normal validation images join the training ones.
      skip_bad: Whether bad records are left out and counted.

    Raises:
      DatasetError: If the category is unknown, or there are no training images.
    """
    folder = find_category(root, category)
    records = [
        *_normal(folder, validation=validation),
        *tree(folder, "test", masks="ground_truth", ending=""),
    ]
    return build("mvtec_loco", category, records, skip_bad=skip_bad)


def mpdd(root: StrPath, category: str, *, skip_bad: bool = False) -> Dataset:
    """Lists one category of MPDD, painted metal parts.

    Args:
      root: The folder that holds the categories, such as ``bracket_black``.
      category: The folder of the category.
      skip_bad: Whether bad records are left out and counted.

    Raises:
      DatasetError: If the category is unknown, or there are no training images.
    """
    folder = find_category(root, category)
    records = [*tree(folder, "train"), *tree(folder, "test", masks="ground_truth")]
    return build("mpdd", category, records, skip_bad=skip_bad)


def btad(root: StrPath, category: str, *, skip_bad: bool = False) -> Dataset:
    """Lists one product of BTAD.

    Args:
      root: The folder that holds the products ``01``, ``02`` and ``03``.
      category: The folder of the product.
      skip_bad: Whether bad records are left out and counted.

    Raises:
      DatasetError: If the product is unknown, or there are no training images.
    """
    folder = find_category(root, category)
    test = tree(folder, "test", masks="ground_truth", good="ok", ending="")
    records = [*tree(folder, "train", good="ok"), *test]
    return build("btad", category, records, skip_bad=skip_bad)


def _normal(folder: pathlib.Path, *, validation: bool) -> Iterator[Record]:
    """Yields the training images, and those for validation if they are wanted."""
    yield from tree(folder, "train")
    if validation:
        yield from tree(folder, "train", part="validation")
