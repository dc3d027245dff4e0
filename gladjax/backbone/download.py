"""Downloading checkpoints: resumable, checked, whole or absent.

A download goes to a ``.part`` file beside its final name. An interrupted one is taken
up where it stopped, as far as the server allows; the finished one gets its name only
after its SHA-256 begins with the digits that are published. What fails says which file
to put where, so that a machine without a network can be served by hand.

Notation: none.

Differs from the reference in: nothing.

Reference: RFC 9110, section 14, "Range Requests".
"""

import http.client
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO

from gladjax.backbone import cache, entries, registry
from gladjax.backbone.checkpoint import CheckpointError, check_hash

Progress = Callable[[int, int | None], None]

_CHUNK = 1 << 20
_TIMEOUT = 30.0


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
    resumed = part.is_file() and part.stat().st_size > 0
    try:
        _download(source, part, progress)
    except (OSError, http.client.HTTPException) as error:
        raise FetchError(
            f"{source}: {error}. {registry.offline(known, folder)}"
        ) from error
    try:
        check_hash(part, known.sha256)
    except CheckpointError:
        part.unlink()
        if not resumed:
            raise
        # The first part came from another file: once more, from the beginning.
        return fetch(name, directory=directory, url=url, progress=progress)
    os.replace(part, path)
    return path


def _installed(known: entries.Entry) -> Path:
    """The file inside the installed package, where it is."""
    try:
        return registry.locate(known.name)
    except FileNotFoundError as error:
        raise FetchError(str(error)) from error


def _download(url: str, part: Path, progress: Progress | None) -> None:
    """Brings a partial file to its full length."""
    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "gladjax"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            return  # Complete already, or of another file: the hash will tell.
        raise
    with response:
        start, total = _extent(response, have)
        with part.open("ab" if start else "wb") as file:
            _copy(response, file, start, total, progress)
    if total is not None and part.stat().st_size != total:
        raise FetchError(
            f"the connection broke after {part.stat().st_size} of {total} bytes "
            "(run again to go on from there)"
        )


def _extent(response: http.client.HTTPResponse, have: int) -> tuple[int, int | None]:
    """Where the answer starts in the file, and how long the file is, if known."""
    if response.status == http.HTTPStatus.PARTIAL_CONTENT:
        content = response.headers.get("Content-Range", "")
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", content)
        if match and int(match[1]) == have:
            return have, None if match[2] == "*" else int(match[2])
        raise FetchError(f"the server sent another range ({content!r})")
    length = response.headers.get("Content-Length")
    return 0, int(length) if length else None


def _copy(
    response: http.client.HTTPResponse,
    file: IO[bytes],
    start: int,
    total: int | None,
    progress: Progress | None,
) -> None:
    """Copies the body, reporting as it goes; a cut connection ends it quietly."""
    done = start
    while True:
        try:
            chunk = response.read(_CHUNK)
        except http.client.IncompleteRead as error:
            chunk = error.partial
            file.write(chunk)
            return
        if not chunk:
            return
        file.write(chunk)
        done += len(chunk)
        if progress is not None:
            progress(done, total)
