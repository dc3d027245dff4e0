"""Reading the images of a data set: what their values mean, and which are copies.

Notation: none.

Differs from the reference in: there is none.

Reference: there is none.
"""

import functools
import pathlib
from collections.abc import Callable

import numpy as np

from gladjax import images
from gladjax.datasets.base import Dataset


def reader(dataset: Dataset) -> Callable[[pathlib.Path], np.ndarray]:
    """Returns what reads an image file as those of the training images are meant.

    Args:
      dataset: The data set; its training images say how many bits count.
    """
    depth = images.observe(record.image for record in dataset.train)
    return functools.partial(images.photograph, depth=depth)


def copies(dataset: Dataset) -> list[str]:
    """Returns which images have the pixels of others, in words; every image is read.

    Args:
      dataset: The data set; unreadable images are left to whoever learns from them.

    Returns:
      A line on the test images that are among those for training, one on the others.
    """
    records = dataset.records  # Those for training first.
    lazy = images.Lazy((record.image for record in records), read=images.facts)
    codes = [
        f"unreadable {i}" if isinstance(one, images.ImageError) else one.content
        for i, one in enumerate(images.outcomes(lazy))
    ]
    leaks, others = [], []
    for i, first in images.copies(codes).items():
        one, other = records[i], records[first]
        both = one.split == "test" and other.split == "train"
        (leaks if both else others).append(f"{one.image} is {other.image}")
    told = (("among those for training", leaks), ("copies of others", others))
    return [
        f"warning: images that are {what}, {len(found)}: {images.named(found)}"
        for what, found in told
        if found
    ]
