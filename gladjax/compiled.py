"""Files of compiled programs, read when they are needed, or before.

A file is the hash of its name and of what follows, then the program as JAX serialises
it, compressed. It appears whole or not at all; one that is damaged is no program.

To read a program takes a twentieth of a second of one core, and a command uses about
the same ones as the last time. So it notes which it used, and `Ahead` reads those in
threads while the command does something else.

Notation: none.

Differs from the reference in: there is none.

Reference: there is none.
"""

import contextlib
import functools
import hashlib
import json
import os
import pickle
import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import serialize_executable

from gladjax import files

ENDING = ".program"
LIST = ".list"  # Of the programs that a command used.
THREADS = 2  # More wait for each other.


class Ahead:
    """Reads some programs in threads, the largest first.

    Args:
      paths: Their files.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        """Begins to read."""
        self._pool = ThreadPoolExecutor(THREADS)
        self._jobs: dict[Path, Future[Any]] = {
            path: self._pool.submit(read, path)
            for path in sorted(paths, key=_size, reverse=True)
        }

    def read(self, path: Path) -> Any:  # noqa: ANN401 - a private type
        """Returns a program, see `read`; what is not begun is not waited for."""
        job = self._jobs.pop(path, None)
        return read(path) if job is None or job.cancel() else job.result()

    def stop(self) -> None:
        """Reads no more."""
        self._pool.shutdown(cancel_futures=True)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # Another process has just removed it.
        return 0


def read(path: Path) -> Any:  # noqa: ANN401 - a private type
    """Returns the program in a file, or None where there is none that is whole."""
    try:
        data = path.read_bytes()
        if data[:32] != _seal(path, data[32:]):
            return None
        os.utime(path)  # The oldest go first.
        _initialize()
        payload, count, out_tree = pickle.loads(zlib.decompress(data[32:]))
        in_tree = jax.tree.structure(((0,) * count, {}))
        return serialize_executable.deserialize_and_load(
            payload, in_tree, out_tree, execution_devices=jax.devices()[:1]
        )
    except Exception:
        return None


def write(path: Path, program: Any, count: int) -> None:  # noqa: ANN401
    """Keeps a program, if it can be; a process that is killed leaves no part of it.

    Args:
      path: The file.
      program: The program.
      count: Number of its arguments.
    """
    with contextlib.suppress(Exception):
        payload, _, out_tree = serialize_executable.serialize(program)
        data = zlib.compress(pickle.dumps((payload, count, out_tree)), 1)
        with files.atomic(path) as file:
            file.write(_seal(path, data) + data)


def noted(path: Path) -> tuple[list[Path], dict[str, Any]]:
    """Returns the programs of a list that are there, and what else it says."""
    try:
        found = json.loads(path.read_bytes())
        names, notes = [str(n) for n in found["programs"]], dict(found["notes"])
    except (OSError, ValueError, TypeError, KeyError):
        return [], {}
    known = {one.name: one for one in path.parent.glob(f"*{ENDING}")}
    return [known[name] for name in names if name in known], notes


def note(path: Path, programs: Iterable[Path], notes: dict[str, Any]) -> None:
    """Writes a list of programs, if it can be.

    Args:
      path: The list.
      programs: The programs.
      notes: What else it says, as JSON allows.
    """
    found = {"programs": [one.name for one in programs], "notes": notes}
    with contextlib.suppress(OSError), files.atomic(path, mode="w") as file:
        json.dump(found, file)


def _seal(path: Path, data: bytes) -> bytes:
    """Returns the hash with which a file begins: of its name and what follows."""
    return hashlib.sha256(path.name.encode() + data).digest()


@functools.cache
def _initialize() -> None:
    """Has JAX look up LAPACK, as it does when it lowers what calls it."""
    shape = jax.ShapeDtypeStruct((1, 1), jnp.float32)
    jax.jit(jnp.linalg.cholesky).lower(shape)
