"""Checkpoints without PyTorch: ``.pth`` in both its forms, and safetensors.

A ``.pth`` file is a pickle that describes tensors and, beside it, their bytes: since
2020 a zip archive (pickle and one member per storage, each with a CRC), before that a
chain of pickles followed by the raw storages (no checksum). The pickle is read by
`pickles.load`, which builds nothing but data. A file name that ends in ``-`` and eight
or more hexadecimal digits carries the beginning of the file's SHA-256, PyTorch's own
convention; it is checked.

Notation: ``state`` is the dictionary from tensor names to arrays.

Differs from the reference in:

1. Zip members must be stored, not compressed, so no file grows when it is read.
2. Big-endian files and the tar form (before 2016) are refused.

Reference: PyTorch, ``torch/serialization.py``, read as a description of the format.
"""

import contextlib
import hashlib
import io
import mmap
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from gladjax.backbone import pickles

FORMAT = "gladjax"
"""What the header of a safetensors file of this package says under ``format``."""

MAX_TABLE = 4 << 20
"""The longest table of tensors or of zip members, in bytes, that is read."""

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_ZIP_ERRORS = (
    OSError,
    RuntimeError,
    ValueError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
)
_DAMAGED = (pickles.PickleError, safetensors.SafetensorError)


class CheckpointError(ValueError):
    """A checkpoint is damaged, unsafe or not of a known form."""


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads the tensors of a checkpoint without PyTorch and without running its code.

    Args:
      path: A ``.pth`` file (zip or legacy, bare or wrapped in ``state_dict``), or a
        ``.safetensors`` file.

    Returns:
      Arrays by tensor name, in the file's order; a common prefix ``module.`` is
      dropped. They may share memory where the tensors did.

    Raises:
      FileNotFoundError: If there is no such file.
      CheckpointError: If the file is truncated or damaged, does not begin with the hash
        that its name promises, or asks for anything but tensors and dictionaries.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    check_name(path)
    try:
        if path.suffix == ".safetensors":
            state = _read_safetensors(path)
        elif _starts_with(path, b"PK\x03\x04"):
            state = _read_zip(path)
        else:
            state = _read_legacy(path)
    except _DAMAGED as error:
        raise CheckpointError(
            f"{path} cannot be read: {error}. If the file is damaged, fetch it again."
        ) from error
    if state and all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return state


def check_name(path: Path) -> None:
    """Checks a file against the hash in its name, if there is one.

    Args:
      path: A file, perhaps named ``…-0123abcd.pth``.

    Raises:
      CheckpointError: If the file's SHA-256 does not begin with these digits.
    """
    match = re.search(r"-([0-9a-f]{8,64})\.pth$", path.name)
    if match:
        check_hash(path, match.group(1))


def check_hash(path: Path, prefix: str) -> None:
    """Checks the SHA-256 of a file.

    Args:
      path: A file.
      prefix: First hexadecimal digits of the hash wanted.

    Raises:
      CheckpointError: If the hash begins otherwise.
    """
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(prefix):
        raise CheckpointError(
            f"{path} is damaged or another file: its SHA-256 begins with "
            f"{found[: len(prefix)]}, not {prefix}. Fetch it again."
        )


def content_hash(state: dict[str, np.ndarray]) -> str:
    """Returns a SHA-256 of names, shapes and float32 values, whatever the file's form.

    Args:
      state: Arrays by name; the order does not matter.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        with np.errstate(over="ignore"):
            value = np.ascontiguousarray(state[name], "<f4")
        digest.update(f"{name} {value.shape}\n".encode())
        digest.update(value.data)
    return digest.hexdigest()


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """A safetensors file; one that this package wrote carries a hash."""
    with path.open("rb") as opened:
        _bounded(int.from_bytes(opened.read(8), "little"))
    state = safetensors.numpy.load_file(path)
    with safetensors.safe_open(path, framework="np") as file:
        metadata = file.metadata() or {}
    if metadata.get("format") == FORMAT and metadata.get("sha256") != content_hash(
        state
    ):
        raise pickles.PickleError("its tensors do not have the hash in its header")
    return state


def _bounded(length: int) -> None:
    """Refuses a table that is too long before anything reads it."""
    if length > MAX_TABLE:
        raise pickles.PickleError(
            f"its table has {length} bytes, more than {MAX_TABLE}"
        )


def _read_zip(path: Path) -> dict[str, np.ndarray]:
    """The zip form: ``<folder>/data.pkl`` and ``<folder>/data/<key>``."""
    with _archive(path) as archive:
        members = {info.filename: info for info in archive.infolist()}
        roots = [n.removesuffix("data.pkl") for n in members if n.endswith("/data.pkl")]
        if len(roots) != 1:
            raise pickles.PickleError("it is a zip archive without one data.pkl")
        if any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
            raise pickles.PickleError("a member of the archive is compressed")
        if sum(info.file_size for info in members.values()) > path.stat().st_size:
            raise pickles.PickleError("its members claim more bytes than it has")
        root = roots[0]
        order = f"{root}byteorder"
        if order in members and archive.read(order) != b"little":
            raise pickles.PickleError("it is big-endian")
        file = io.BytesIO(archive.read(f"{root}data.pkl"))
        tree, _ = pickles.load(file)
        if file.read(1):
            raise pickles.PickleError("data.pkl goes on behind its end")
        tensors = _tensors(tree)
        buffers: dict[str, np.ndarray] = {}
        for storage in {tensor.storage for tensor in tensors.values()}:
            name = f"{root}data/{storage.key}"
            if name not in members:
                raise pickles.PickleError(f"the member {name} is missing")
            dtype = _dtype(storage)
            if members[name].file_size != storage.size * dtype.itemsize:
                raise pickles.PickleError(f"the member {name} has the wrong size")
            buffers[storage.key] = np.frombuffer(archive.read(name), dtype)
    return {name: _view(tensor, buffers) for name, tensor in tensors.items()}


def _starts_with(path: Path, magic: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(magic)) == magic


class _Opened(io.BufferedReader):
    """A zip file whose reader takes no more at once than a table may have."""

    table = True

    def read(self, size: int | None = -1, /) -> bytes:
        """Reads like any file, but for the longest table."""
        if self.table:
            _bounded(size or 0)
        return super().read(size)


@contextlib.contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """Opens a zip file; whatever its reader trips over is damage."""
    try:
        with _Opened(io.FileIO(path)) as file, zipfile.ZipFile(file) as archive:
            file.table = False
            yield archive
    except _ZIP_ERRORS as error:
        raise pickles.PickleError(str(error) or "it is cut short") from error


def _read_legacy(path: Path) -> dict[str, np.ndarray]:
    """The legacy form: magic, protocol, system, tensors, keys, then raw storages."""
    if path.stat().st_size == 0:
        raise pickles.PickleError("it is empty")
    with (
        path.open("rb") as opened,
        mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as file,
    ):
        if file[:2] != b"\x80\x02":
            raise pickles.PickleError("it is no PyTorch checkpoint")
        if pickles.load(file)[0] != _MAGIC or pickles.load(file)[0] != _PROTOCOL:
            raise pickles.PickleError("it is no PyTorch checkpoint")
        system, _ = pickles.load(file)
        if not isinstance(system, dict) or system.get("little_endian") is not True:
            raise pickles.PickleError("it is big-endian")
        tree, storages = pickles.load(file)
        tensors = _tensors(tree)
        keys, _ = pickles.load(file)
        if not _same(keys, storages):
            raise pickles.PickleError("its list of storages is damaged")
        needed = {tensor.storage.key for tensor in tensors.values()}
        numbers = {
            key: _read_storage(file, storages[key], key in needed) for key in keys
        }
        buffers = {key: value for key, value in numbers.items() if value is not None}
        if file.read(1):
            raise pickles.PickleError("it goes on behind its last storage")
    return {name: _view(tensor, buffers) for name, tensor in tensors.items()}


def _read_storage(
    file: mmap.mmap, storage: pickles.Storage, needed: bool
) -> np.ndarray | None:
    """Reads a count and reads or skips the numbers behind it."""
    header = file.read(8)
    if len(header) < 8:
        raise pickles.PickleError("it is cut short")
    (count,) = struct.unpack("<q", header)
    if count != storage.size:
        raise pickles.PickleError(f"storage {storage.key} has the wrong size")
    dtype = _dtype(storage)
    size = count * dtype.itemsize
    if size > len(file) - file.tell():
        raise pickles.PickleError("it is cut short")
    if not needed:
        file.seek(size, os.SEEK_CUR)
        return None
    return np.frombuffer(file.read(size), dtype)


def _same(keys: Any, storages: Mapping[str, pickles.Storage]) -> bool:  # noqa: ANN401
    """Whether the keys at the end are those of the storages, in some order."""
    return (
        isinstance(keys, list)
        and all(isinstance(key, str) for key in keys)
        and sorted(keys) == sorted(storages)
    )


def _tensors(tree: Any) -> dict[str, pickles.Tensor]:  # noqa: ANN401 - any datum
    """The dictionary of tensors in an unpickled object, unwrapped."""
    if isinstance(tree, dict):
        for wrapper in _WRAPPERS:
            if isinstance(tree.get(wrapper), dict):
                tree = tree[wrapper]
                break
    if not isinstance(tree, dict):
        raise pickles.PickleError("it holds no dictionary of tensors")
    for name, value in tree.items():
        if not isinstance(name, str) or not isinstance(value, pickles.Tensor):
            raise pickles.PickleError(
                f"its entry {name!r:.80} is a {type(value).__name__}, not a tensor"
            )
    return dict(tree)


def _dtype(storage: pickles.Storage) -> np.dtype:
    if storage.dtype == "bfloat16":
        return np.dtype(jnp.bfloat16)
    return np.dtype(storage.dtype)


def _view(tensor: pickles.Tensor, buffers: dict[str, np.ndarray]) -> np.ndarray:
    """The window of a tensor on its storage; `pickles` has checked that it fits."""
    buffer = buffers[tensor.storage.key]
    strides = [stride * buffer.itemsize for stride in tensor.strides]
    if 0 in tensor.shape:
        return np.zeros(tensor.shape, buffer.dtype)
    return np.lib.stride_tricks.as_strided(
        buffer[tensor.offset :], tensor.shape, strides, writeable=False
    )
