"""Builders of ``tensorflow-datasets``: MVTec AD and DAGM 2007.

They are called ``mvtec_ad/<category>`` and ``dagm2007/class<n>``. The images must be
downloaded by hand, since their licences ask for consent. A builder copies the files as
they are into records, in the order of our own loader, so reading them back gives the
same pixels as reading the folder:

    from gladjax.datasets import tfds as builders
    builders.register()
    builder = tensorflow_datasets.builder("mvtec_ad/screw", file_format="array_record")

An example has ``image`` and ``mask`` (a black one for a normal image), ``label`` (0
normal, 1 anomalous) and ``kind``.

Notation: none.

Differs from the reference in:

1. The classes are made on demand, so that the package works without the extra.

Reference: https://www.tensorflow.org/datasets/add_dataset.
"""

import functools
import importlib
import io
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import PIL.Image
from jaxtyping import Bool

from gladjax import images
from gladjax.datasets.base import Dataset, DatasetError, Record
from gladjax.datasets.mvtec import CATEGORIES, mvtec
from gladjax.datasets.surfaces import dagm
from gladjax.datasets.truth import read_mask, require

_INSTRUCTIONS = (
    "Download {title} from {home}, accept its licence, and unpack it so that the "
    "folders of the categories, such as {example!r}, lie in the manual folder or in a "
    "folder {name!r} in it."
)
_MVTEC = {
    "name": "mvtec_ad",
    "title": "MVTec AD",
    "home": "https://www.mvtec.com/company/research/datasets/mvtec-ad",
    "example": "screw",
    "licence": "CC BY-NC-SA 4.0",
}
_DAGM = {
    "name": "dagm2007",
    "title": "DAGM 2007",
    "home": "https://hci.iwr.uni-heidelberg.de/content/weakly-supervised-learning-"
    "industrial-optical-inspection",
    "example": "Class1",
    "licence": "see the home page",
}


def library() -> Any:  # noqa: ANN401 - the module is optional.
    """Returns the module ``tensorflow_datasets``.

    Raises:
      DatasetError: If the extra is not installed.
    """
    try:
        importlib.import_module("array_record")
        return importlib.import_module("tensorflow_datasets")
    except ImportError as error:
        raise DatasetError(
            f"{error}; install the extra: pip install gladjax[tfds]"
        ) from error


@functools.cache
def register() -> Mapping[str, type]:
    """Makes the builders known to ``tensorflow-datasets``, once.

    Returns:
      The builder classes by name.

    Raises:
      DatasetError: If the extra is not installed.
    """
    categories = (*CATEGORIES["textures"], *CATEGORIES["objects"])
    classes = {f"class{n}": f"Class{n}" for n in range(1, 11)}
    return {
        "mvtec_ad": _define(_MVTEC, mvtec, {name: name for name in categories}),
        "dagm2007": _define(_DAGM, dagm, classes),
    }


def _define(
    about: Mapping[str, str],
    loader: Callable[..., Dataset],
    configs: Mapping[str, str],
) -> type:
    """Makes the builder class of one data set; ``configs`` names its folders."""
    tfds = library()

    class Builder(tfds.core.GeneratorBasedBuilder):
        """One configuration a category."""

        name = about["name"]
        code_path = None  # There are no checksums or metadata beside this file.
        VERSION = tfds.core.Version("1.0.0")
        RELEASE_NOTES = {"1.0.0": "First release."}  # noqa: RUF012 - as TFDS has it.
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in configs]  # noqa: RUF012
        MANUAL_DOWNLOAD_INSTRUCTIONS = _INSTRUCTIONS.format(**about)

        def _info(self) -> Any:  # noqa: ANN401
            """Describes an example."""
            picture = tfds.features.Image
            features = {
                "image": picture(shape=(None, None, 3), doc="as it was published"),
                "mask": picture(shape=(None, None, 1), doc="not black: anomalous"),
                "label": tfds.features.ClassLabel(names=["normal", "anomalous"]),
                "kind": tfds.features.Text(),
            }
            return tfds.core.DatasetInfo(
                builder=self,
                description=f"{about['title']}. Licence: {about['licence']}.",
                homepage=about["home"],
                features=tfds.features.FeaturesDict(features),
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:  # noqa: ANN401
            """Lists the category in the manual folder."""
            manual = pathlib.Path(dl_manager.manual_dir)
            inner = manual / about["name"]
            root = inner if inner.is_dir() else manual
            found = loader(root, configs[self.builder_config.name])
            require(found)
            return {"train": _encode(found.train), "test": _encode(found.test)}

        def _generate_examples(self) -> None:
            """Is not used: the generators are made by the split."""

    return Builder


def _encode(records: tuple[Record, ...]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields numbered examples whose pictures are paths or encoded files."""
    for number, record in enumerate(records):
        plain = record.mask is not None and not images.lossy(record.mask)
        mask = str(record.mask) if plain else _png(read_mask(record))
        yield (
            number,
            {
                "image": str(record.image),
                "mask": mask,
                "label": record.label,
                "kind": record.kind,
            },
        )


def _png(mask: Bool[np.ndarray, "h w"]) -> io.BytesIO:
    """Returns a mask as an open PNG file."""
    stream = io.BytesIO()
    PIL.Image.fromarray(255 * mask.astype(np.uint8)).save(stream, format="PNG")
    stream.seek(0)
    return stream
