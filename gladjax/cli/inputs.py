"""Which image files are meant: files, folders, patterns, lists on standard input."""

import glob
import os
import pathlib
import sys
from collections.abc import Iterable, Sequence

import click

from gladjax import files, images

MAX_LIST = 2**28
"""The longest list of files, in characters, that is read from standard input."""


def expand(arguments: Sequence[str]) -> list[pathlib.Path]:
    """Returns the image files that arguments stand for, in their order.

    Args:
      arguments: Files, folders (all images below them, sorted), patterns with ``*``,
        ``?`` or ``**``, or ``-`` for a list on standard input, one file a line or
        separated by null characters. A file that does not exist is kept: whoever reads
        it will say so.

    Raises:
      click.UsageError: If a folder or pattern has no image, or nothing is left.
    """
    found: list[pathlib.Path] = []
    for argument in arguments:
        found.extend(_listed() if argument == "-" else _expand(argument))
    if not found:
        raise click.UsageError("there are no images: give files, folders or patterns")
    return found


def _listed() -> list[pathlib.Path]:
    text = sys.stdin.read(MAX_LIST + 1)
    if len(text) > MAX_LIST:
        raise click.UsageError(f"the list is longer than {MAX_LIST} characters")
    parts = text.split("\0") if "\0" in text else text.splitlines()
    return [pathlib.Path(part) for part in parts if part.strip()]


def _expand(argument: str) -> list[pathlib.Path]:
    path = pathlib.Path(argument)
    if path.is_dir():
        found = _below(path)
    elif glob.has_magic(argument) and not path.exists():
        found = [pathlib.Path(name) for name in glob.glob(argument, recursive=True)]
        found = sorted(name for name in found if _is_image(name.name))
    else:
        return [path]
    if not found:
        raise click.UsageError(f"{argument}: no images here")
    return found


def _below(folder: pathlib.Path) -> list[pathlib.Path]:
    found = []
    for here, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found.extend(pathlib.Path(here, name) for name in names if _is_image(name))
    return sorted(found)


def _is_image(name: str) -> bool:
    return pathlib.PurePath(name).suffix.lower() in images.SUFFIXES and name[0] != "."


def unique(paths: Iterable[pathlib.Path]) -> list[pathlib.Path]:
    """Returns files without those that were named before, under whatever name."""
    seen: dict[pathlib.Path, pathlib.Path] = {}
    for path in paths:
        seen.setdefault(path.resolve(), path)
    return list(seen.values())


class Names:
    """Names for an output file per image, all different, all inside of one folder."""

    def __init__(self, folder: pathlib.Path, paths: Sequence[pathlib.Path]) -> None:
        """Finds the folder that all images share; their places below it are kept."""
        self._folder = folder
        self._base = os.path.commonpath([path.absolute().parent for path in paths])
        self._used: set[pathlib.Path] = set()

    def next(self, path: pathlib.Path) -> pathlib.Path:
        """Returns the output file of the next image.

        Args:
          path: The image.

        Raises:
          ValueError: If the path has a way out of the folder in it.
        """
        place = pathlib.Path(os.path.relpath(os.path.abspath(path), self._base))
        stem = (
            place
            if place.suffix.lower() == ".png"
            else place.with_name(place.name + ".png")
        )
        target, number = files.inside(self._folder, stem), 2
        while target in self._used:
            target = files.inside(
                self._folder, stem.with_name(f"{stem.stem}-{number}.png")
            )
            number += 1
        self._used.add(target)
        return target
