"""Scores of many images in constant memory.

Images are read ahead in threads while one is scored; results come in order, one at a
time, and nothing of an image is kept once the next one is asked for. A bad image is a
result like any other.

Notation: none.

Differs from the reference in: there is none.

Reference: there is none.
"""

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
      depth: Images read ahead at most.
      shape: Height and width of the heat maps; each image's own by default.

    Yields:
      The result, or the `ImageError` of an image that cannot be read or scored.

    Raises:
      ValueError: If the depth is below 1.
    """
    for i, outcome in enumerate(images.outcomes(sequence, depth=depth)):
        yield _scored(fitted, outcome, images.place(sequence, i), shape)


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
      depth: Images read ahead at most.
      shape: Height and width of the heat maps; each image's own by default.
      waiting: Called a few times a second while no image is ready.

    Yields:
      The result of each file, in order.

    Raises:
      ValueError: If the depth is below 1.
    """
    rules: dict[str, Any] = {"read": read, "depth": depth, "waiting": waiting}
    for path, outcome in images.arriving(paths, **rules):
        result = _scored(fitted, outcome, str(path), shape)
        bad = isinstance(result, ImageError)
        yield ScoredFile(path, None if bad else outcome, result)


def _scored(
    fitted: Detector,
    outcome: Any,  # noqa: ANN401 - an image of any type, or why it is none
    name: str,
    shape: tuple[int, int] | None,
) -> Scored | ImageError:
    if isinstance(outcome, ImageError):
        return outcome
    try:
        image = images.standard(outcome, name=name)
        return detector.score(fitted, image, shape=shape)
    except ImageError as error:
        return error
