"""Named arrays and a JSON header in one safetensors file, with a checksum over both.

The format has no code in it: a table of names, types, shapes and places, then the
bytes. Header and checksum are strings in the table's metadata, so that any reader of
safetensors can look at the file. The checksum is the SHA-256 of the header and of the
SHA-256 of every array, so that arrays are hashed side by side, and a changed threshold
is found as well as a changed mean.

Notation: none.

Differs from the reference in: (1) types are those that a detector has.

Reference: the safetensors format, https://github.com/huggingface/safetensors.
"""

import concurrent.futures
import hashlib
import json
import os
import pathlib
import struct
from collections.abc import Mapping
from typing import IO, Any

import numpy as np
import safetensors

from gladjax import files

StrPath = str | os.PathLike[str]
Arrays = Mapping[str, np.ndarray]

FORMAT = "gladjax-detector"
MAX_HEADER = 4 * 2**20
"""The longest header, in characters, that is read."""

MAX_TABLE = 4 * MAX_HEADER
"""The longest table, in bytes, that is read: names, types, shapes and the header."""

_NAMES = {
    "<f2": "F16",
    "<f4": "F32",
    "<f8": "F64",
    "<i4": "I32",
    "<i8": "I64",
    "|b1": "BOOL",
}
_TYPES = {name: np.dtype(code) for code, name in _NAMES.items()}


class ModelError(ValueError):
    """A file that is no usable model; the message names it and says what to do."""


def write(path: StrPath, arrays: Arrays, header: Mapping[str, Any]) -> None:
    """Writes arrays and a header, atomically and without a second copy in memory.

    Args:
      path: The file.
      arrays: Arrays of floats, of 32 or 64-bit integers, or of booleans.
      header: Anything that has a JSON form, numbers finite.

    Raises:
      ValueError: If an array has another type, or a number is not finite.
      TypeError: If something has no JSON form.
    """
    kept = {name: _little(name, arrays[name]) for name in sorted(arrays)}
    text = json.dumps(header, sort_keys=True, allow_nan=False)
    metadata = {"format": FORMAT, "header": text, "checksum": checksum(kept, text)}
    table: dict[str, object] = {"__metadata__": metadata}
    position = 0
    for name, value in kept.items():
        span = [position, position + value.nbytes]
        kind = _NAMES[value.dtype.str]
        table[name] = {"dtype": kind, "shape": value.shape, "data_offsets": span}
        position = span[1]
    encoded = json.dumps(table).encode()
    encoded += b" " * (-len(encoded) % 8)
    with files.atomic(path) as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for value in kept.values():
            _pour(file, value)


def _little(name: str, value: np.ndarray) -> np.ndarray:
    """Returns an array in the byte order and layout of the file."""
    array = np.asarray(value)
    array = np.ascontiguousarray(array).reshape(array.shape)
    array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    if array.dtype.str not in _NAMES:
        raise ValueError(f"{name} is of type {array.dtype}, which the file has not")
    return array


def _pour(file: IO[bytes], value: np.ndarray) -> None:
    """Writes the bytes of an array, in pieces that an interrupt can fall between."""
    data = value.reshape(-1).view(np.uint8).data
    for first in range(0, len(data), 1 << 24):
        file.write(data[first : first + (1 << 24)])


def checksum(arrays: Arrays, header: str) -> str:
    """Returns the SHA-256 of a header and of arrays with their names and shapes.

    Args:
      arrays: Arrays in the byte order of the file.
      header: The header's text.
    """

    def digest(name: str) -> bytes:
        value = np.ascontiguousarray(arrays[name]).reshape(-1)
        whole = hashlib.sha256(
            f"{name} {arrays[name].shape} {value.dtype.str}".encode()
        )
        whole.update(value.view(np.uint8).data)
        return whole.digest()

    total = hashlib.sha256(header.encode())
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for part in pool.map(digest, sorted(arrays)):
            total.update(part)
    return total.hexdigest()


def read_header(path: StrPath) -> dict[str, Any]:
    """Reads the header alone; the checksum is not verified.

    Args:
      path: The file.

    Raises:
      ModelError: If the file is missing or is no model.
    """
    with _opened(path) as file:
        return _header(pathlib.Path(path), file)[0]


def read(path: StrPath) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Reads arrays and header, and verifies the checksum.

    Args:
      path: The file.

    Returns:
      The arrays, and the header. What is read is never larger than the file.

    Raises:
      ModelError: If the file is missing, truncated or changed, or is no model.
    """
    name = pathlib.Path(path)
    with _opened(path) as file:
        header, text, expected = _header(name, file)
        arrays = {}
        try:
            for key in file.keys():  # noqa: SIM118 - it is no dictionary
                kind = file.get_slice(key).get_dtype()
                if kind not in _TYPES:
                    raise ModelError(f"{name}: {key} is of the unknown type {kind}")
                arrays[key] = file.get_tensor(key)
        except (safetensors.SafetensorError, OSError, MemoryError) as error:
            raise ModelError(
                f"{name}: not readable ({error}); copy it again"
            ) from error
    if checksum(arrays, text) != expected:
        raise ModelError(
            f"{name}: its contents do not have the checksum in its header: it was "
            "changed or damaged; copy it again or fit again"
        )
    return arrays, header


def _opened(path: StrPath) -> Any:  # noqa: ANN401 - the library has no types
    """Opens a safetensors file; its table is checked against its length."""
    name = pathlib.Path(path)
    try:
        known = name.is_file()
    except (OSError, ValueError) as error:
        raise ModelError(f"{name}: {error}; check the path") from error
    if not known:
        raise ModelError(f"{name}: no such model file; check the path")
    try:
        with name.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
        if length > MAX_TABLE:
            raise ValueError(f"a table of {length} bytes, more than {MAX_TABLE}")
        return safetensors.safe_open(name, framework="np")
    except PermissionError as error:
        raise ModelError(f"{name}: no permission to read it") from error
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise ModelError(
            f"{name}: not a whole safetensors file ({error}): it is cut short, damaged "
            "or something else; copy it again or fit again"
        ) from error


def _header(name: pathlib.Path, file: Any) -> tuple[dict[str, Any], str, str]:  # noqa: ANN401
    """Returns the header, its text, and the checksum that stands beside it."""
    metadata = file.metadata() or {}
    if metadata.get("format") != FORMAT:
        raise ModelError(
            f"{name}: a safetensors file, but no gladjax detector; "
            "give the file that `gladjax fit` wrote"
        )
    text = metadata.get("header", "")
    if len(text) > MAX_HEADER:
        raise ModelError(f"{name}: its header is longer than {MAX_HEADER} characters")
    try:
        header = json.loads(text, parse_constant=_refuse)
        if not isinstance(header, dict):
            raise ValueError("it is no object")
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f"{name}: its header is no JSON ({error}); fit again"
        ) from error
    return header, text, metadata.get("checksum", "")


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
