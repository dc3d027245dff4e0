"""Sizes of the pieces in which work is cut, by kind of device.

Everything here changes the time and the memory of a computation, never its answer. The
numbers come from `python -m gladjax.experiments.performance sizes`, whose tables stand
in ``experiments/performance``.

Notation: none.

Differs from the reference in: there is none.

Reference: there is none.
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import NamedTuple

import jax


class Sizes(NamedTuple):
    """How work is cut.

    Attributes:
      whole: Up to this many features the bounds take all of them.
      rank: Leading coordinates of the bounds of more features.
      wide: From this many features on they are twice as many.
      chunk: Samples whose bounds are held at once.
      listed: Open pairs per sample of a chunk that are listed at a time, as a divisor:
        ``chunk // listed``.
      slots: Pairs in a block that shares a pass over the rows of a component.
      elements: Numbers that a batch of blocks gathers at most.
    """

    whole: int
    rank: int
    wide: int
    chunk: int
    listed: int
    slots: int
    elements: int


CPU = Sizes(whole=48, rank=32, wide=160, chunk=4096, listed=1, slots=16, elements=1 << 19)
ACCELERATOR = Sizes(
    whole=32, rank=32, wide=512, chunk=32768, listed=1, slots=32, elements=1 << 26
)
_override: ContextVar[str | None] = ContextVar("platform", default=None)


def rank(dimension: int) -> int:
    """Returns how many leading coordinates the bounds of so many features take."""
    known = sizes()
    if dimension <= known.whole:
        return dimension
    return known.rank if dimension < known.wide else 2 * known.rank


def sizes() -> Sizes:
    """Returns the sizes for the device that JAX runs on, or lowers for."""
    platform = _override.get() or jax.default_backend()
    return CPU if platform == "cpu" else ACCELERATOR


@contextlib.contextmanager
def lowering(platform: str) -> Iterator[None]:
    """Makes programs traced inside of the block those of another platform.

    Args:
      platform: Such as ``"cuda"``.
    """
    token = _override.set(platform)
    try:
        yield
    finally:
        _override.reset(token)
