"""Scores of many images in constant memory.

Images are read and scored ahead, several at a time in threads of their own: much of
the work of one image keeps one core only busy. Where there are many and they are not
large, some go through one program together, which reads what the model holds once for
all of them. Results come in order, one at a time, and nothing of an image is kept once
the next one is asked for. A bad image is a result like any other.

Notation: none.

Differs from the reference in: there is none.

Reference: there is none.
"""

import contextlib
import itertools
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np

from gladjax import detector, devices, images
from gladjax.detector import Detector, Scored
from gladjax.images import ImageError

MANY = 64  # Images from which on programs of groups are worth their compiling.
PIXELS = 1 << 22  # Of the images of a group, at most.
AHEAD = 3  # Groups that are read and scored ahead.

T = TypeVar("T")
Result = tuple[Any, Scored | ImageError]


class ScoredFile(NamedTuple):
    """What a detector says of a file.

    Attributes:
      path: The file.
      image: The image, RGB, 0 to 255; None if it is bad.
      result: The result, or why it is bad.
    """

    path: Path
    image: Any
    result: Scored | ImageError


def score_many(
    fitted: Detector,
    sequence: Sequence[Any],
    *,
    depth: int | None = None,
    shape: tuple[int, int] | None = None,
) -> Iterator[Scored | ImageError]:
    """Yields what a detector says of each image, in order, as soon as it is known.

    Args:
      fitted: The detector.
      sequence: RGB images, 0 to 255, of any sizes; `gladjax.images.Lazy` reads files.
        Other kinds than that, lists and tuples are scored image by image, since what
        they hold may be large.
      depth: Images read and scored ahead at most; by default what suits the device.
      shape: Height and width of the heat maps; each image's own by default.

    Yields:
      The result, or the `ImageError` of an image that cannot be read or scored.

    Raises:
      ValueError: If the depth is below 1.
    """

    def pixels(i: int) -> int:
        if isinstance(sequence, images.Lazy):
            return _pixels(sequence.paths[i])
        known = isinstance(sequence, (list, tuple))
        return math.prod(np.shape(sequence[i])[:2]) if known else PIXELS + 1

    size, ahead = _cut(depth)
    read = sequence.__getitem__, partial(images.place, sequence)
    scorer = _Scorer(fitted, read, size, shape)
    groups = _grouped(range(len(sequence)), size, pixels)
    for _, found in images.arriving(groups, read=scorer, depth=ahead):
        yield from (result for _, result in cast("list[Result]", found))


def score_files(
    fitted: Detector,
    paths: Iterable[images.StrPath],
    *,
    read: Callable[[Path], Any] = images.photograph,
    depth: int | None = None,
    shape: tuple[int, int] | None = None,
    waiting: Callable[[], None] = lambda: None,
) -> Iterator[ScoredFile]:
    """Yields what a detector says of each file, even before the next name is known.

    Args:
      fitted: The detector.
      paths: The files; unless they are a sequence they may come slowly, such as from a
        pipe.
      read: Turns a file into an RGB image, 0 to 255.
      depth: Images read and scored ahead at most; by default what suits the device.
      shape: Height and width of the heat maps; each image's own by default.
      waiting: Called a few times a second while no image is ready.

    Yields:
      The result of each file, in order.

    Raises:
      ValueError: If the depth is below 1.
    """
    size, ahead = _cut(depth)
    scorer = _Scorer(fitted, (read, str), size, shape)
    if isinstance(paths, Sequence):
        groups = _grouped([Path(path) for path in paths], size, _pixels)
    else:
        groups = ([Path(path)] for path in paths)
    for group, found in images.arriving(
        groups, read=scorer, depth=ahead, waiting=waiting
    ):
        for path, one in zip(group, cast("list[Result]", found), strict=True):
            yield ScoredFile(path, *one)


class _Scorer:
    """Reads and scores groups of images; who comes first compiles for the others."""

    def __init__(
        self,
        fitted: Detector,
        read: tuple[Callable[[Any], Any], Callable[[Any], str]],
        size: int,
        shape: tuple[int, int] | None,
    ) -> None:
        self._fitted, self._size, self._shape = fitted, size, shape
        self._read, self._name = read
        self._first, self._ready = threading.Lock(), set[int]()

    def __call__(self, group: Sequence[Any]) -> list[Result]:
        """Returns each image and its result, in order."""
        found = [self._standard(item) for item in group]
        good = [one for one in found if not isinstance(one, ImageError)]
        size = self._size if len(good) == self._size else 1
        results = itertools.chain.from_iterable(
            self._together([image for _, image in good[first : first + size]])
            for first in range(0, len(good), size)
        )
        return [
            (None, one) if isinstance(one, ImageError) else (one[0], next(results))
            for one in found
        ]

    def _standard(self, item: Any) -> tuple[Any, Any] | ImageError:  # noqa: ANN401
        """Returns an image as it was read and as it is scored, or why it is bad."""
        try:
            image = self._read(item)
            return image, images.standard(image, name=self._name(item))
        except ImageError as error:
            return error

    def _together(self, group: list[Any]) -> list[Scored]:
        ready = len(group) in self._ready
        with contextlib.nullcontext() if ready else self._first:
            results = detector.score_batch(self._fitted, group, shape=self._shape)
            self._ready.add(len(group))
        return results


def _cut(depth: int | None) -> tuple[int, int]:
    """Returns how many images go together, and how many such groups are ahead."""
    size = devices.sizes().group
    if depth is None:
        return size, AHEAD
    size = max(1, min(size, depth // AHEAD))
    return size, depth // size


def _grouped(
    items: Sequence[T], size: int, pixels: Callable[[T], int]
) -> Iterator[Sequence[T]]:
    """Yields the items in order, one by one, or where they are many, in groups.

    Args:
      items: What tells which image.
      size: Images in a group; fewer where they are large, and of the first one.
      pixels: Returns how many an image has.
    """
    if size == 1 or len(items) < MANY:
        yield from ([item] for item in items)
        return
    yield items[:1]
    group: list[T] = []
    room = PIXELS
    for item in items[1:]:
        more = pixels(item)
        if group and (len(group) == size or more > room):
            yield group
            group, room = [], PIXELS
        group.append(item)
        room -= more
    yield group


def _pixels(path: Path) -> int:
    """Returns how many pixels a file has; none where that cannot be told."""
    try:
        return math.prod(images.shape(path))
    except ImageError:
        return 0
