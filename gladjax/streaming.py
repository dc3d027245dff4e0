"""Scores of many images in constant memory.

Images are read ahead in threads while one is scored; results come in order, one at a
time, and nothing of an image is kept once the next one is asked for. A bad image is a
result like any other.

Notation: none.

Differs from the reference in: there is none.

Reference: there is none.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from gladjax import detector, images
from gladjax.detector import Detector, Scored
from gladjax.images import ImageError


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
        if not isinstance(outcome, ImageError):
            try:
                outcome = images.standard(outcome, name=images.place(sequence, i))
                outcome = detector.score(fitted, outcome, shape=shape)
            except ImageError as error:
                outcome = error
        yield outcome
