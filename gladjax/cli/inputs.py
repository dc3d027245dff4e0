"""Which image files are meant: files, folders, patterns, lists on standard input."""

import codecs
import glob
import itertools
import os
import pathlib
import sys
from collections.abc import Iterable, Iterator, Sequence

import click

from gladjax import images
from gladjax.cli.saying import say

MAX_LIST = 2**28
"""The longest list of files, in characters, that is read from standard input."""

_MAX_NAME = 2**16  # Bytes of one of them.


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
    found, size = [], 0
    for path in stream(arguments, learn=learn):
        found.append(path)
        size += len(str(path))
        if size > MAX_LIST:
            raise click.UsageError(f"the list is longer than {MAX_LIST} characters")
    return found


def known(arguments: Sequence[str]) -> list[str]:
    """Returns the arguments without the list on standard input, which comes later."""
    return [argument for argument in arguments if argument != "-"]


def stream(
    arguments: Sequence[str], *, learn: bool = False, quiet: bool = False
) -> Iterator[pathlib.Path]:
    """Yields what `expand` returns; those of standard input as soon as they come.

    Args:
      arguments: As in `expand`.
      learn: As in `expand`.
      quiet: Whether to say nothing of what is left out.

    Raises:
      click.UsageError: As in `expand`.
    """
    some = False
    for argument in arguments:
        for path in _listed() if argument == "-" else _expand(argument, learn, quiet):
            some = True
            yield path
    if not some:
        raise click.UsageError("there are no images: give files, folders or patterns")


def _listed() -> Iterator[pathlib.Path]:
    """Yields the names on standard input, each as soon as its end has come."""
    if sys.stdin is None:
        raise click.UsageError("standard input is closed")
    # Not through Python's buffer: its lock, held in a thread, would abort the exit.
    source = getattr(sys.stdin.buffer, "raw", sys.stdin.buffer)
    rest, separator, begun = b"", b"", False
    while piece := source.read(_MAX_NAME):
        rest += piece
        if not begun and len(rest) >= len(codecs.BOM_UTF8):
            rest, begun = rest.removeprefix(codecs.BOM_UTF8), True
        separator = separator or next((s for s in (b"\0", b"\n") if s in rest), b"")
        if separator:
            *whole, rest = rest.split(separator)
            yield from _paths(whole, separator)
        if len(rest) > _MAX_NAME:
            raise click.UsageError("standard input is no list of files: it has no ends")
    yield from _paths([rest], separator)


def _paths(names: Iterable[bytes], separator: bytes) -> Iterator[pathlib.Path]:
    for name in names:
        text = os.fsdecode(name)
        if separator != b"\0":
            text = text.removesuffix("\r")
        if text.strip():
            yield pathlib.Path(text)


def _expand(argument: str, learn: bool, quiet: bool) -> list[pathlib.Path]:
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
    for note in () if quiet else found.notes:
        say(f"left out: {note}", err=True)
    if not found.paths:
        raise click.UsageError(f"{argument}: no images here")
    if learn and found.notes:
        places = dict.fromkeys(str(one.parent) for one in found.paths)
        more = f" and {len(places) - 3} more folders" if len(places) > 3 else ""
        say(f"learning from {', '.join([*places][:3])}{more}", err=True)
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
        try:
            place = path.resolve()
        except (OSError, RuntimeError, ValueError):  # A link to itself, a NUL.
            place = path  # Reading it will say what is wrong.
        seen.setdefault(place, path)
    return list(seen.values())
