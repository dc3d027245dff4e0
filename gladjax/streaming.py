"""Scores of many images in constant memory.

Images are read and scored ahead, several at a time in threads of their own: much of
the work of one image keeps one core only busy. Results come in order, one at a time,
and nothing of an image is kept once the next one is asked for. A bad image is a result
like any other.

Notation: none.

Differs from the reference in: there is none.

Reference: there is none.
"""

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gladjax import detector, images
from gladjax.detector import Detector, Scored
from gladjax.images import ImageError


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
    depth: int = 4,
    shape: tuple[int, int] | None = None,
) -> Iterator[Scored | ImageError]:
    """Yields what a detector says of each image, in order, as soon as it is known.

    Args:
      fitted: The detector.
      sequence: RGB images, 0 to 255, of any sizes; `gladjax.images.Lazy` reads files.
      depth: Images read and scored ahead at most.
      shape: Height and width of the heat maps; each image's own by default.

    Yields:
      The result, or the `ImageError` of an image that cannot be read or scored.

    Raises:
      ValueError: If the depth is below 1.
    """
    yield from images.outcomes(_Scores(sequence, _Scorer(fitted, shape)), depth=depth)


def score_files(
    fitted: Detector,
    paths: Iterable[images.StrPath],
    *,
    read: Callable[[Path], Any] = images.photograph,
    depth: int = 4,
    shape: tuple[int, int] | None = None,
    waiting: Callable[[], None] = lambda: None,
) -> Iterator[ScoredFile]:
    """Yields what a detector says of each file, even before the next name is known.

    Args:
      fitted: The detector.
      paths: The files; they may come slowly, such as from a pipe.
      read: Turns a file into an RGB image, 0 to 255.
      depth: Images read and scored ahead at most.
      shape: Height and width of the heat maps; each image's own by default.
      waiting: Called a few times a second while no image is ready.

    Yields:
      The result of each file, in order.

    Raises:
      ValueError: If the depth is below 1.
    """
    scorer = _Scorer(fitted, shape)

    def scored(path: Path) -> tuple[Any, Scored]:
        image = read(path)
        return image, scorer(image, str(path))

    for path, outcome in images.arriving(
        paths, read=scored, depth=depth, waiting=waiting
    ):
        if isinstance(outcome, ImageError):
            yield ScoredFile(path, None, outcome)
        else:
            yield ScoredFile(path, *outcome)


class _Scorer:
    """Scores an image; the first one alone, since it compiles what others need."""

    def __init__(self, fitted: Detector, shape: tuple[int, int] | None) -> None:
        self._fitted, self._shape = fitted, shape
        self._first, self._ready = threading.Lock(), False

    def __call__(self, image: Any, name: str) -> Scored:  # noqa: ANN401 - of any type
        image = images.standard(image, name=name)
        with contextlib.nullcontext() if self._ready else self._first:
            result = detector.score(self._fitted, image, shape=self._shape)
            self._ready = True
        return result


class _Scores(Sequence[Scored]):
    """What a detector says of a sequence of images, worked out when it is asked for."""

    def __init__(self, sequence: Sequence[Any], scorer: _Scorer) -> None:
        self._sequence, self._scorer = sequence, scorer

    def __len__(self) -> int:
        return len(self._sequence)

    def __getitem__(self, index: Any) -> Any:  # noqa: ANN401 - as a sequence has it
        return self._scorer(self._sequence[index], images.place(self._sequence, index))
