"""Downloading checkpoints: resumable, checked, whole or absent.

A download goes to a ``.part`` file beside its final name. An interrupted one is taken
up where it stopped, as far as the server allows, and begun again where what is there is
of another file; the finished one gets its name only after its SHA-256 begins with the
digits that are published. One process at a time writes, the others wait for its file. A
server is not believed: it may send no more than the network's weights can be, and no
more slowly than `_LEAST` bytes in `_TIMEOUT` seconds. What fails says which file to put
where, so that a machine without a network can be served by hand.

Notation: none.

Differs from the reference in: nothing.

Reference: RFC 9110, section 14, "Range Requests".
"""

import contextlib
import dataclasses
import http.client
import math
import os
import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import jax

from gladjax import cache
from gladjax.backbone import entries, network, registry
from gladjax.backbone.checkpoint import CheckpointError, check_hash

if sys.platform != "win32":
    import fcntl

Progress = Callable[[int, int | None], None]

_CHUNK = 1 << 20
_TIMEOUT = 30.0
_LEAST = 1 << 16  # Bytes that must come within the timeout.


class FetchError(OSError):
    """A checkpoint could not be downloaded."""


def fetch(
    name: str,
    *,
    directory: str | os.PathLike[str] | None = None,
    url: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Downloads the published checkpoint of a network.

    The licence of the weights is ``entry(name).licence``; callers show it to the user.

    Args:
      name: A name that `catalogue` lists.
      directory: Folder to put it in, instead of the cache folder.
      url: Another place to get the same file from.
      progress: Called with the bytes there are and the bytes there will be, if known.

    Returns:
      Path of the checked file: the one there is already, or the new one.

    Raises:
      ValueError: If there is no network of this name, or nothing is published for it.
      FetchError: If the server cannot be reached or refuses; the message says which
        file to put where.
      CheckpointError: If what arrives is not the published file.
    """
    known = entries.entry(name)
    folder = Path(directory) if directory is not None else cache.folder()
    source = url or known.url
    if not source and known.package[0] and directory is None:
        return _installed(known)
    if not source.startswith(("http://", "https://")) or not known.sha256:
        raise ValueError(
            f"{name}: no web address, or no published hash, is known. "
            f"{registry.offline(known, folder)}"
        )
    path = folder / known.file
    if path.is_file():
        check_hash(path, known.sha256)
        return path
    folder.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with _alone(part):
        if not path.is_file():
            try:
                _complete(source, part, known, progress)
            except (OSError, http.client.HTTPException) as error:
                raise FetchError(
                    f"{source}: {error}. {registry.offline(known, folder)}"
                ) from error
            os.replace(part, path)
    check_hash(path, known.sha256)  # Another process may have put it there.
    return path


@contextlib.contextmanager
def _alone(part: Path) -> Iterator[None]:
    """Waits until no other process writes a partial file, where systems can tell."""
    if sys.platform == "win32":
        yield
        return
    while True:
        lock = os.open(part, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            with contextlib.suppress(OSError):  # Some network drives have no locks.
                fcntl.flock(lock, fcntl.LOCK_EX)
            # The file that was waited for may be gone, or have its final name.
            try:
                if not os.path.samestat(os.fstat(lock), part.stat()):
                    continue
            except FileNotFoundError:
                continue
            try:
                yield
            finally:
                if os.fstat(lock).st_size == 0:
                    part.unlink(missing_ok=True)
            return
        finally:
            os.close(lock)


def _complete(
    source: str, part: Path, known: entries.Entry, progress: Progress | None
) -> None:
    """Brings a partial file to the published one, from the beginning if need be."""
    have = part.stat().st_size if part.is_file() else 0
    if have:
        with contextlib.suppress(CheckpointError):
            check_hash(part, known.sha256)
            return  # Complete already: no server is needed.
    try:
        _download(source, part, _longest(known), progress)
        check_hash(part, known.sha256)
    except CheckpointError:
        os.truncate(part, 0)  # Not unlinked: others wait for this file.
        if not have:
            raise
        # What was there came from another file: once more, from the beginning.
        _complete(source, part, known, progress)


def _longest(known: entries.Entry) -> int:
    """Bytes that a checkpoint may have: thrice the weights, as when training, more."""
    head = network.CLASSES if known.family.classifies else 0
    spec = dataclasses.replace(known.spec, folded=False, head=head)
    _, weights = network.template(known.family.module, spec)
    return 16 * sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(weights)) + _CHUNK


def _installed(known: entries.Entry) -> Path:
    """The file inside the installed package, where it is."""
    try:
        return registry.locate(known.name)
    except FileNotFoundError as error:
        raise FetchError(str(error)) from error


def _download(url: str, part: Path, most: int, progress: Progress | None) -> None:
    """Brings a partial file to its full length.

    Raises:
      CheckpointError: If the server's file cannot be the one that the part began.
    """
    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "gladjax"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            raise CheckpointError(f"{part}: there is no more of it") from error
        raise
    with response:
        start, total = _extent(response, have)
        if total is not None and total > most:
            raise CheckpointError(f"{url} offers {total} bytes, more than {most}")
        with part.open("ab" if start else "wb") as file:
            _copy(response, file, start, min(total or most, most), progress, total)
    if total is not None and part.stat().st_size != total:
        raise FetchError(
            f"the connection broke after {part.stat().st_size} of {total} bytes "
            "(run again to go on from there)"
        )


def _extent(response: http.client.HTTPResponse, have: int) -> tuple[int, int | None]:
    """Where the answer starts in the file, and how long the file is, if known."""
    if response.status == http.HTTPStatus.PARTIAL_CONTENT:
        content = response.headers.get("Content-Range", "")
        match = re.fullmatch(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)", content)
        if match and int(match[1]) == have:
            total = None if match[2] == "*" else int(match[2])
            if total is None or total > have:
                return have, total
        raise CheckpointError(f"the server sent another range ({content!r:.80})")
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if re.fullmatch(r"\d{1,18}", length) else None


def _copy(
    response: http.client.HTTPResponse,
    file: IO[bytes],
    done: int,
    most: int,
    progress: Progress | None,
    total: int | None,
) -> None:
    """Copies the body, reporting as it goes; a cut connection ends it quietly."""
    began, before = time.monotonic(), done
    while True:
        try:
            chunk = response.read1(_CHUNK)
        except http.client.IncompleteRead as error:
            file.write(error.partial)
            return
        if not chunk:
            return
        file.write(chunk)
        done += len(chunk)
        if done > most:
            raise CheckpointError(f"more than {most} bytes came, and no end of them")
        if progress is not None:
            progress(done, total)
        if time.monotonic() - began > _TIMEOUT:
            if done - before < _LEAST:
                raise FetchError(
                    f"only {done - before} bytes came in {_TIMEOUT:g} seconds "
                    "(run again to go on from there)"
                )
            began, before = time.monotonic(), done
