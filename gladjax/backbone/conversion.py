"""Converted checkpoints: safetensors with a hash, and only what is needed.

A converted file holds, under their names in PyTorch, the float32 tensors that a
network uses, and in its header the network's name, the licence and the hash of the
tensors, which `read_checkpoint` verifies.

Notation: none.

Differs from the reference in: nothing.

Reference: the safetensors format, https://github.com/huggingface/safetensors.
"""

import dataclasses
import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy as np

from gladjax import files
from gladjax.backbone import entries, network
from gladjax.backbone.checkpoint import FORMAT, content_hash, read_checkpoint


def convert(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    name: str,
    filter_size: int | None = 4,
    head: bool = False,
) -> Path:
    """Converts a checkpoint to safetensors, checking that it is the network's.

    Args:
      path: A ``.pth`` or ``.safetensors`` file.
      out: The file to write, ending in ``.safetensors``.
      name: A name that `catalogue` lists.
      filter_size: Side of the blur filters of a residual network, ``None`` for
        torchvision's; networks without blur filters ignore it.
      head: Whether to keep the layers after the last tap too.

    Returns:
      Path of the file, whole or absent.

    Raises:
      ValueError: If ``out`` has another ending, or there is no network of this name.
      FileNotFoundError: If there is no checkpoint.
      CheckpointError: If the checkpoint is damaged or not the network's.
    """
    out = Path(out)
    if out.suffix != ".safetensors":
        raise ValueError(f"{out}: a converted checkpoint must end in .safetensors")
    known = entries.entry(entries.variant(name, filter_size=filter_size))
    spec = dataclasses.replace(
        known.spec, folded=False, head=network.CLASSES if head else 0
    )
    state = read_checkpoint(path)
    table = network.check(known.family, spec, state, name=str(path))
    kept = {
        key: np.ascontiguousarray(state[key], "<f4") for key in sorted(table.values())
    }
    metadata = {
        "format": FORMAT,
        "name": known.name,
        "licence": known.licence,
        "sha256": content_hash(kept),
    }
    with files.atomic(out) as file:
        _write(file, kept, metadata)
    return out


def _write(
    file: IO[bytes], state: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """Writes safetensors tensor by tensor; the library's `save` doubles the memory."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    position = 0
    for name, value in state.items():
        span = [position, position + value.nbytes]
        header[name] = {"dtype": "F32", "shape": value.shape, "data_offsets": span}
        position = span[1]
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    file.write(struct.pack("<Q", len(encoded)) + encoded)
    for value in state.values():
        file.write(value.data)
