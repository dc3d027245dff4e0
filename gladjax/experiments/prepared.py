"""Prepared ``tensorflow-datasets`` records as a category that the experiments read.

With ``--tfds``, ``--data-root`` is the folder in which records were prepared (see
`gladjax.datasets.tfds.prepare`). They are written once as PNG files, which hold the
same pixels, in the layout of MVTec AD, and read from there.

Notation: none.

Differs from the reference in: there is none.

Reference: https://www.tensorflow.org/datasets.
"""

import dataclasses
from pathlib import Path

import numpy as np

from gladjax import datasets, files, images
from gladjax.datasets import Dataset, DatasetError, tfds

NAMES = {"mvtec": "mvtec_ad", "dagm": "dagm2007"}
"""What the builders are called, by data set."""


def dataset(data: str, category: str, *, data_dir: Path, folder: Path) -> Dataset:
    """Returns a category read from prepared records.

    Args:
      data: ``"mvtec"`` or ``"dagm"``.
      category: The category; ``Class3`` stands for the builder's ``class3``.
      data_dir: Where the records are.
      folder: Where the images are written, unless they are there already.

    Raises:
      DatasetError: If there is no builder of the data set, the extra is not installed,
        or the records were not prepared.
    """
    if data not in NAMES:
        raise DatasetError(f"{data}: no records of it; there are: {', '.join(NAMES)}")
    place = files.inside(folder, category)
    if not (place / "complete").is_file():
        name = f"{NAMES[data]}/{category.lower()}"
        for split in ("train", "test"):
            found = tfds.examples(name, split, data_dir=data_dir)
            for number, kind in enumerate(found.kinds):
                stem = f"{number:05}"
                image = np.asarray(found.images[number])
                images.write_png(place / split / kind / f"{stem}.png", image)
                if found.labels[number]:
                    mask = 255 * np.asarray(found.masks[number]).astype(np.uint8)
                    truth = place / "ground_truth" / kind / f"{stem}_mask.png"
                    images.write_png(truth, mask)
        with files.atomic(place / "complete", mode="w") as file:
            file.write("written from prepared records\n")
    return dataclasses.replace(datasets.mvtec(folder, category), name=data)
