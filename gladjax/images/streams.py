"""Sequences of image files that are read on access, ahead of need, and past bad ones.

A data set larger than memory is a sequence of paths that behaves like a sequence of
arrays. Decoding runs in threads a few images ahead of whoever iterates, in constant
memory. A bad image is an outcome like any other; the caller decides whether one in ten
thousand ends the run.

Notation: none.

Differs from the reference in: there is none.

Reference: there is none.
"""

import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar, overload

from gladjax.images.headers import ImageError
from gladjax.images.pipes import arriving
from gladjax.images.pixels import read

T = TypeVar("T")
StrPath = str | os.PathLike[str]


class Lazy(Sequence[Any]):
    """A sequence of images that are read from their files on each access.

    Attributes:
      paths: The files, a tuple.

    Example:
      >>> len(Lazy(["a.png", "b.png", "c.png"])[1:])
      2
    """

    def __init__(
        self, paths: Iterable[StrPath], *, read: Callable[[pathlib.Path], Any] = read
    ) -> None:
        """Remembers the files; none is opened.

        Args:
          paths: The image files.
          read: What turns a path into an item.
        """
        self.paths = tuple(pathlib.Path(path) for path in paths)
        self._read = read

    def __len__(self) -> int:
        """Returns the number of files."""
        return len(self.paths)

    @overload
    def __getitem__(self, index: int) -> Any: ...  # noqa: ANN401
    @overload
    def __getitem__(self, index: slice) -> "Lazy": ...
    def __getitem__(self, index: int | slice) -> Any:
        """Reads one image, or returns a shorter lazy sequence for a slice."""
        if isinstance(index, slice):
            return Lazy(self.paths[index], read=self._read)
        return self._read(self.paths[index])


def place(sequence: Sequence[Any], index: int) -> str:
    """Returns what to call an item of a sequence: its file, or its number.

    Args:
      sequence: A `Lazy`, or any other.
      index: Which item.
    """
    known = isinstance(sequence, Lazy)
    return str(sequence.paths[index]) if known else f"image {index}"


def outcomes(sequence: Sequence[T], *, depth: int = 4) -> Iterator[T | ImageError]:
    """Yields the items of a sequence, read ahead; bad images come as errors, in place.

    Args:
      sequence: Items that are costly to get, such as a `Lazy`; reads run in threads.
      depth: How many items are under way or waiting at once.

    Yields:
      Each item in order, or the `ImageError` that getting it raised.

    Raises:
      ValueError: If the depth is below 1.
    """
    index = range(len(sequence))
    for _, outcome in arriving(index, read=sequence.__getitem__, depth=depth):
        yield outcome


def prefetch(sequence: Sequence[T], *, depth: int = 4) -> Iterator[T]:
    """Yields the items of a sequence, read ahead in threads.

    Args:
      sequence: Items that are costly to get, such as a `Lazy`.
      depth: How many items are under way or waiting at once.

    Yields:
      Each item in order.

    Raises:
      ImageError: At the place of a bad image.
      ValueError: If the depth is below 1.
    """
    for outcome in outcomes(sequence, depth=depth):
        if isinstance(outcome, ImageError):
            raise outcome
        yield outcome


class Checked(NamedTuple):
    """Which files are readable: their paths in order, and the errors of the others."""

    paths: tuple[pathlib.Path, ...]
    errors: tuple[ImageError, ...]


def check(paths: Iterable[StrPath], *, skip_bad: bool = False) -> Checked:
    """Reads every file once and separates good from bad.

    Args:
      paths: The image files.
      skip_bad: Whether bad files are left out and counted instead of refused.

    Returns:
      The good paths in order and the errors of the bad ones.

    Raises:
      ImageError: At the first bad file, or, with ``skip_bad``, if all are bad.
    """
    lazy = Lazy(paths)
    errors, good = [], []
    for path, outcome in zip(lazy.paths, outcomes(lazy), strict=True):
        if not isinstance(outcome, ImageError):
            good.append(path)
        elif skip_bad:
            errors.append(outcome)
        else:
            raise outcome
    if errors and not good:
        raise ImageError(f"none of {len(errors)} images is readable: {errors[0]}")
    return Checked(tuple(good), tuple(errors))
