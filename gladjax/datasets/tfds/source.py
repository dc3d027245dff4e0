"""Prepared ``tensorflow-datasets`` records as sequences of arrays.

Records are read with ``as_data_source``, which needs no TensorFlow, and decoded by
`gladjax.images`, so that pixels are those of the published files.

Notation: none.

Differs from the reference in: there is none.

Reference: https://www.tensorflow.org/datasets/tfless_tfds.
"""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from gladjax import images
from gladjax.datasets.base import DatasetError, Split, StrPath
from gladjax.datasets.tfds.builders import library, register


@dataclasses.dataclass(frozen=True)
class Examples:
    """One split of a prepared category.

    Attributes:
      images: The images (h, w, 3), read on access.
      masks: The masks (h, w), boolean, read on access.
      labels: 0 normal, 1 anomalous.
      kinds: The types of defect, or ``"good"``.
    """

    images: Sequence[Any]
    masks: Sequence[Any]
    labels: tuple[int, ...]
    kinds: tuple[str, ...]


class _Pictures(Sequence[Any]):
    """One picture of each record, decoded on access."""

    def __init__(self, source: Sequence[Any], name: str, *, mask: bool) -> None:
        self._source, self._name, self._mask = source, name, mask

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: Any) -> Any:  # noqa: ANN401
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        data = self._source[number]["mask" if self._mask else "image"]
        array = images.decode(data, name=f"{self._name}, record {number}")
        return np.any(array, axis=-1) if self._mask else array


def prepare(
    name: str,
    *,
    data_dir: StrPath,
    manual_dir: StrPath,
) -> None:
    """Writes the records of one category from its folder, if they are not there yet.

    Args:
      name: ``mvtec_ad/<category>`` or ``dagm2007/class<n>``.
      data_dir: Where the records go.
      manual_dir: The folder of the images, downloaded by hand.

    Raises:
      DatasetError: If the extra is not installed, the name is unknown, or the images
        are not as their layout says.
    """
    config = library().download.DownloadConfig(manual_dir=os.fspath(manual_dir))
    try:
        _builder(name, data_dir).download_and_prepare(download_config=config)
    except AssertionError as error:  # How the library reports an empty manual folder.
        raise DatasetError(f"{name}: {error}") from error


def examples(name: str, split: Split, *, data_dir: StrPath) -> Examples:
    """Opens one split of a prepared category.

    Args:
      name: ``mvtec_ad/<category>`` or ``dagm2007/class<n>``.
      split: ``"train"`` or ``"test"``.
      data_dir: Where `prepare` put the records.

    Returns:
      The examples in the order of the folder's loader.

    Raises:
      DatasetError: If the extra is not installed, the name is unknown, or the records
        were not prepared.
    """
    skip = library().decode.SkipDecoding()
    builder = _builder(name, data_dir)
    if split not in (builder.info.splits or {}):
        raise DatasetError(f"{name}: not prepared in {data_dir}; call prepare first")
    source = builder.as_data_source(split, decoders={"image": skip, "mask": skip})
    facts = [(int(record["label"]), record["kind"].decode()) for record in source]
    return Examples(
        images=_Pictures(source, f"{name}, {split}", mask=False),
        masks=_Pictures(source, f"{name}, {split}", mask=True),
        labels=tuple(label for label, _ in facts),
        kinds=tuple(kind for _, kind in facts),
    )


def _builder(name: str, data_dir: StrPath) -> Any:  # noqa: ANN401
    """Returns the builder of a category."""
    known = register()
    dataset, _, category = name.partition("/")
    configs = [c.name for c in getattr(known.get(dataset), "BUILDER_CONFIGS", ())]
    if category not in configs:
        there = ", ".join(f"{d}/<category>" for d in known)
        raise DatasetError(f"no {name!r}; there are: {there} ({', '.join(configs)})")
    return known[dataset](
        config=category, data_dir=os.fspath(data_dir), file_format="array_record"
    )
