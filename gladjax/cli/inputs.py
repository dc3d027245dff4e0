"""Which image files are meant: files, folders, patterns, lists on standard input."""

import glob
import itertools
import os
import pathlib
import sys
from collections.abc import Iterable, Sequence

import click

from gladjax import files, images

MAX_LIST = 2**28
"""The longest list of files, in characters, that is read from standard input."""


def expand(arguments: Sequence[str], *, learn: bool = False) -> list[pathlib.Path]:
    """Returns the image files that arguments stand for, in their order.

    Args:
      arguments: Files, folders (all images below them, sorted), patterns with ``*``,
        ``?`` or ``**``, or ``-`` for a list on standard input, one file a line or
        separated by null characters. A file that does not exist is kept: whoever reads
        it will say so.
      learn: Whether only normal images are wanted: of a data set, those in its
        ``train/good``. What is left out of folders and patterns is told.

    Raises:
      click.UsageError: If a folder or pattern has no image, or nothing is left.
    """
    found: list[pathlib.Path] = []
    for argument in arguments:
        found.extend(_listed() if argument == "-" else _expand(argument, learn))
    if not found:
        raise click.UsageError("there are no images: give files, folders or patterns")
    return found


def _listed() -> list[pathlib.Path]:
    text = sys.stdin.read(MAX_LIST + 1)
    if len(text) > MAX_LIST:
        raise click.UsageError(f"the list is longer than {MAX_LIST} characters")
    parts = text.split("\0") if "\0" in text else text.splitlines()
    return [pathlib.Path(part) for part in parts if part.strip()]


def _expand(argument: str, learn: bool) -> list[pathlib.Path]:
    path = pathlib.Path(argument)
    if path.is_dir():
        many = [p.name for p in sorted(path.iterdir()) if (p / "train").is_dir()]
        if learn and many and not (path / "train").is_dir():
            there = ", ".join(many)
            raise click.UsageError(f"{path}: it holds several data sets: {there}")
        found = images.below(path, learn=learn)
    elif glob.has_magic(argument) and not path.exists():
        names = glob.glob(_any_case(argument), recursive=True)
        paths = [pathlib.Path(name) for name in names if _is_image(name)]
        found = images.chosen(paths, _fixed(path), learn=learn)
    else:
        return [path]
    for note in found.notes:
        click.echo(f"left out: {note}", err=True)
    if not found.paths:
        raise click.UsageError(f"{argument}: no images here")
    if learn and found.notes:
        places = dict.fromkeys(str(one.parent) for one in found.paths)
        more = f" and {len(places) - 3} more folders" if len(places) > 3 else ""
        click.echo(f"learning from {', '.join([*places][:3])}{more}", err=True)
    return found.paths


def _any_case(pattern: str) -> str:
    """Returns a pattern whose ending, such as ``.png``, stands for ``.PNG`` as well."""
    stem, ending = os.path.splitext(pattern)
    if ending.lower() not in images.SUFFIXES:
        return pattern
    letters = (f"[{c.lower()}{c.upper()}]" if c.isalpha() else c for c in ending)
    return stem + "".join(letters)


def _fixed(pattern: pathlib.Path) -> pathlib.Path:
    """Returns the folder that a pattern begins with."""
    parts = itertools.takewhile(lambda part: not glob.has_magic(part), pattern.parts)
    return pathlib.Path(*parts)


def _is_image(path: str) -> bool:
    return images.is_image(os.path.basename(path))


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
