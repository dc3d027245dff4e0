"""Output files that are whole or absent, and paths that stay in their folder.

A result that was half written is worse than none: the next run would read it. So every
file is written under a temporary name in its own folder, flushed to the disk, and given
its final name in one step of the file system. Whoever looks sees the old file, the new
file, or no file. What a killed process left under a temporary name goes when the next
one writes into the folder. Names that come from data (a defect type, an image's file
name) are joined to an output folder by `inside`, which refuses every way out of it.

Notation: none.

Differs from the reference in: there is none.

Reference: POSIX.1-2017, ``rename``: the replacement of a name is atomic.
"""

import contextlib
import functools
import hashlib
import json
import math
import os
import pathlib
import platform
import re
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from typing import IO, Any

import numpy as np

StrPath = str | os.PathLike[str]

_BLOCK = 2**20  # Bytes that are written at once.

MAX_JSON_BYTES = 64 * 2**20
"""The largest JSON file, in bytes, that `read_json` opens by default."""


@contextlib.contextmanager
def atomic(path: StrPath, *, mode: str = "wb") -> Iterator[IO[Any]]:
    r"""Opens a file for writing that appears under its name only when it is complete.

    The folder is created where it is missing. Data go to a hidden file beside ``path``,
    which is flushed, synchronised with the disk and renamed when the block ends, and
    removed when the block raises anything, an interrupt included.

    Args:
      path: The file to write. An existing regular file is replaced.
      mode: ``"wb"`` or ``"w"``; text is UTF-8 with ``\n`` line ends.

    Yields:
      The open file.

    Raises:
      ValueError: If the mode is another one, or ``path`` is a folder or a device.
      OSError: If the folder cannot be made or written; it names ``path``.
    """
    if mode not in ("wb", "w"):
        raise ValueError(f"mode must be 'wb' or 'w', not {mode!r}")
    target = pathlib.Path(path)
    if target.exists() and not target.is_file():
        raise ValueError(f"{target}: not a regular file; choose another name")
    text: dict[str, Any] = {}
    if "b" not in mode:  # Names of files may have bytes in them that are no characters.
        text = {"encoding": "utf-8", "errors": "backslashreplace", "newline": "\n"}
    hidden = target.parent / f"{_owner()}{os.getpid()}-{secrets.token_hex(6)}.tmp"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _clean(os.path.abspath(target.parent), os.getpid())
        with open(hidden, mode.replace("w", "x"), **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(hidden, target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            hidden.unlink()
        reason = _reason(error, {None, str(hidden), str(target.parent)})
        if reason:
            raise OSError(f"{target}: cannot be written ({reason})") from error
        raise
    _sync_folder(target.parent)


def _reason(error: BaseException, places: set[str | None]) -> str:
    """Returns what the system said of writing a file, empty if it is another error."""
    if not isinstance(error, OSError) or isinstance(error, BrokenPipeError):
        return ""
    return (error.strerror or "") if error.filename in places else ""


@functools.cache
def _owner() -> str:
    """Returns what temporary names begin with where process numbers are the same."""
    space = ""
    with contextlib.suppress(OSError):  # Containers count their processes anew.
        space = os.readlink("/proc/self/ns/pid")
    code = hashlib.sha256(f"{platform.node()} {space}".encode()).hexdigest()
    return f".gladjax-{code[:8]}-"


@functools.lru_cache(maxsize=1024)
def _clean(folder: str, own: int) -> None:
    """Removes temporary files of processes that ended, once per folder and process."""
    if os.name == "nt":  # There is no harmless way to ask for a process.
        return
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            found = re.fullmatch(
                rf"{re.escape(_owner())}(\d+)-[0-9a-f]{{12}}\.tmp", name
            )
            if found and int(found[1]) != own and not _alive(int(found[1])):
                os.unlink(os.path.join(folder, name))


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _sync_folder(folder: pathlib.Path) -> None:
    """Makes a rename durable, where the system can synchronise folders."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def scratch(shape: tuple[int, ...], dtype: np.dtype) -> np.memmap:
    """Returns an array in a temporary file, which is gone when the array is.

    The file has no name (on Windows, one that the system removes), so nothing is left
    of it however the process ends. It lies where ``TMPDIR`` says.

    Args:
      shape: Shape of the array.
      dtype: Type of its elements, all 0 at first.

    Raises:
      OSError: If there is no room for it.
    """
    size = math.prod(shape) * dtype.itemsize
    folder = tempfile.gettempdir()
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            # A disk that is full is told of here, not by a signal later.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, max(size, 1))
            else:
                for first in range(0, size, _BLOCK):
                    file.write(bytes(min(_BLOCK, size - first)))
            return np.memmap(file, dtype, "r+", shape=shape)
    except OSError as error:
        raise OSError(
            f"{folder}: no room for {size / 2**20:.0f} MB of temporary data "
            f"({error.strerror}); let TMPDIR name a folder on a larger disk"
        ) from error


def write_json(path: StrPath, value: object) -> None:
    """Writes a value as JSON, atomically and always in the same form.

    Keys are sorted, the indent is two blanks, the text is ASCII and ends with a line
    end, so equal values are equal files. NumPy scalars and arrays, paths and tuples
    (named ones become lists) are understood.

    Args:
      path: The file to write.
      value: Mappings with string keys, sequences, numbers, strings, ``None``. NaN,
        which JSON has not, is written as ``null``.

    Raises:
      ValueError: If a number is infinite: neither a number nor "not known" is right.
      TypeError: If something has no JSON form. Both name the place in the value.
    """
    text = json.dumps(_plain(value, "value"), indent=2, sort_keys=True, allow_nan=False)
    with atomic(path, mode="w") as file:
        file.write(text + "\n")


def _plain(value: object, place: str) -> object:
    """Converts a value to what the JSON encoder knows; ``place`` is for the error."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, np.generic | np.ndarray):
        return _plain(value.tolist(), place)
    if isinstance(value, float):
        if math.isinf(value):
            raise ValueError(f"{place} is {value}, which JSON cannot hold")
        return None if math.isnan(value) else value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        wrong = [key for key in value if not isinstance(key, str)]
        if wrong:
            raise TypeError(f"{place} has the key {wrong[0]!r}, which is not a string")
        return {key: _plain(item, f"{place}[{key!r}]") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{place}[{i}]") for i, item in enumerate(value)]
    raise TypeError(f"{place} is a {type(value).__name__}, which has no JSON form")


def read_json(path: StrPath, *, max_bytes: int = MAX_JSON_BYTES) -> Any:  # noqa: ANN401
    """Reads a JSON file.

    Args:
      path: The file, UTF-8.
      max_bytes: The largest file that is opened.

    Returns:
      The value: dictionaries, lists, strings, numbers, booleans, ``None``.

    Raises:
      ValueError: If the file is missing, too large, or no JSON (NaN and the infinities
        are none; neither is nesting beyond the interpreter's depth). It names the file.
    """
    file = pathlib.Path(path)
    if not file.is_file():
        raise ValueError(f"{file}: no such file")
    try:
        size = file.stat().st_size
        if size > max_bytes:
            raise ValueError(f"{size} bytes, more than the limit of {max_bytes}")
        return json.loads(file.read_bytes().decode("utf-8"), parse_constant=_refuse)
    except (ValueError, OSError, RecursionError) as error:
        raise ValueError(f"{file}: not a readable JSON file ({error})") from error


def _refuse(constant: str) -> None:
    """Refuses NaN and infinities, which Python's parser would let through."""
    raise ValueError(f"{constant} is not JSON")


def inside(folder: StrPath, name: StrPath) -> pathlib.Path:
    """Returns a path below a folder, and refuses one that would lie outside.

    Args:
      folder: The folder, which need not exist.
      name: A relative path: a file name, or folders and a file name.

    Returns:
      ``folder / name``, with ``folder`` as it was given.

    Raises:
      ValueError: If the name is empty, absolute, has ``..`` or a null character in it,
        names the folder itself, or leads out through a symbolic link.

    Example:
      >>> inside("out", "scratch/000.png").as_posix()
      'out/scratch/000.png'
    """
    text = os.fspath(name)
    relative = pathlib.PureWindowsPath(text.replace("/", "\\"))
    outside = relative.is_absolute() or relative.drive or relative.root
    if "\0" in text or outside or ".." in relative.parts or not relative.parts:
        raise ValueError(f"{text!r} is no path below {os.fspath(folder)!r}")
    path = pathlib.Path(folder) / text
    try:
        below = path.resolve().relative_to(pathlib.Path(folder).resolve())
    except (ValueError, OSError, RuntimeError) as error:
        raise ValueError(f"{text!r} leads out of {os.fspath(folder)!r}") from error
    if not below.parts:
        raise ValueError(f"{text!r} names the folder {os.fspath(folder)!r} itself")
    return path
