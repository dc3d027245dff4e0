"""Sizes of the pieces in which work is cut, by kind of device; threads and processes.

The sizes change the time and the memory of a computation, never its answer. How those
of the CPU were chosen stands in ``experiments/performance``.

On a CPU JAX factors matrices by SciPy's LAPACK, one small matrix after the other. On
several threads these wait for each other actively: a fifth to a third more time alone,
ten times as long beside another program. So SciPy's BLAS gets one thread when
`gladjax` first computes, unless ``OPENBLAS_NUM_THREADS`` says otherwise; NumPy's and
JAX's own threads stay.

Notation: none.

Differs from the reference in: there is none.

Reference: there is none.
"""

import contextlib
import importlib
import os
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import threadpoolctl
from jaxtyping import Array


class Sizes(NamedTuple):
    """How work is cut.

    Attributes:
      whole: Up to this many features the bounds take all of them,
      whole_near: and where all costs near the least are wanted up to this many; as many
        coordinates have the bounds of one image alone, where features are more but
        not `wide`.
      rank: Leading coordinates of the bounds of more features,
      fine: and of the bounds of single pairs.
      wide: From this many features on there are more of either:
      rank_wide: leading coordinates,
      fine_wide: and those of single pairs.
      chunk: Samples whose bounds are held at once.
      listed: Pairs of a sample that are listed first, in a chunk of so many samples;
        twice as many each time.
      slots: Pairs in a block that shares a pass over the rows of a component.
      elements: Numbers that a batch of blocks gathers at most.
      factored: Numbers of a batch of matrices that are factored together.
      together: Whether images are scored together, rather than one after the other.
      group: Images of a stream that are scored by one program.
    """

    whole: int
    whole_near: int
    rank: int
    fine: int
    wide: int
    rank_wide: int
    fine_wide: int
    chunk: int
    listed: int
    slots: int
    elements: int
    factored: int
    together: bool
    group: int


CPU = Sizes(
    whole=32,
    whole_near=48,
    rank=24,
    fine=56,
    wide=160,
    rank_wide=32,
    fine_wide=96,
    chunk=8192,
    listed=3,
    slots=16,
    elements=1 << 20,
    factored=1 << 17,
    together=False,
    group=8,
)
ACCELERATOR = Sizes(
    whole=32,
    whole_near=32,
    rank=32,
    fine=64,
    wide=160,
    rank_wide=48,
    fine_wide=96,
    chunk=65536,
    listed=8,
    slots=128,
    elements=1 << 25,
    factored=1 << 25,
    together=True,
    group=32,
)
_override: ContextVar[str | None] = ContextVar("platform", default=None)
_first: list[int] = []  # The process in which JAX ran first.


def check_process() -> None:
    """Refuses to go on where JAX would wait for ever: in a fork of where it ran.

    Raises:
      RuntimeError: If this process was forked from one that called this function.
    """
    if not _first:
        _first.append(os.getpid())
        _one_thread()
    if _first[0] != os.getpid():
        raise RuntimeError(
            "this process was forked after JAX ran, and JAX would hang in it: start "
            "worker processes by spawn, multiprocessing.get_context('spawn')"
        )


def _one_thread() -> None:
    """Takes the threads from the LAPACK that JAX calls: that of SciPy's wheels."""
    if "OPENBLAS_NUM_THREADS" in os.environ:
        return
    known = importlib.import_module("scipy.linalg.cython_lapack")
    root = Path(str(known.__file__)).resolve().parents[1]
    own = root.with_name("scipy.libs"), root / ".dylibs"
    for library in threadpoolctl.ThreadpoolController().lib_controllers:
        if library.user_api == "blas" and Path(library.filepath).parent in own:
            library.set_num_threads(1)


def ranks(
    dimension: int, *, near: bool = False, image: bool = False
) -> tuple[int, int]:
    """Returns how many leading coordinates the bounds of so many features take.

    Args:
      dimension: Number of features.
      near: Whether all costs near the least one are wanted.
      image: Whether they are, of the samples of an image.

    Returns:
      Those of the bounds of all components, and those of the bounds of single pairs.
    """
    known = sizes()
    if dimension <= (known.whole_near if near or image else known.whole):
        return dimension, dimension
    if dimension < known.wide:
        if image and not known.together:
            # So few samples fill no blocks of pairs: one bound, a better one, is less.
            return known.whole_near, known.whole_near
        return known.rank, (known.fine if known.fine < dimension else known.rank)
    return known.rank_wide, known.fine_wide


def sizes() -> Sizes:
    """Returns the sizes for the device that JAX runs on, or lowers for."""
    check_process()
    return CPU if target() == "cpu" else ACCELERATOR


def target() -> str:
    """Returns the platform that JAX runs on, or lowers for."""
    return _override.get() or jax.default_backend()


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


def in_chunks(
    function: Callable[..., tuple[Any, Any]], arrays: tuple[Any, ...], chunk: int
) -> tuple[Any, Any]:
    """Applies a function to chunks of samples, one after the other.

    Args:
      function: From slices of the arrays to a pytree with a leading axis of as many
        samples, and a pytree of numbers.
      arrays: Arrays, or None, of the same leading axis ``n``.
      chunk: Samples in a chunk.

    Returns:
      The first results, joined; and the sum of the second ones. The last chunk overlaps
      the one before, so a few samples may count twice in the sum.
    """
    n = next(a.shape[0] for a in arrays if a is not None)
    if n <= chunk:
        return function(*arrays)

    def visit(_: None, first: Array) -> tuple[None, tuple[Any, Any]]:
        return None, function(
            *(
                a if a is None else jax.lax.dynamic_slice_in_dim(a, first, chunk)
                for a in arrays
            )
        )

    steps = n // chunk
    last = n - steps * chunk  # Samples that only the last chunk holds.
    firsts = jnp.minimum(jnp.arange(steps + (last > 0)) * chunk, n - chunk)
    _, (parts, numbers) = jax.lax.scan(visit, None, firsts)

    def join(part: Array) -> Array:
        whole = part[:steps].reshape(steps * chunk, *part.shape[2:])
        return jnp.concatenate([whole, part[-1, chunk - last :]]) if last else whole

    return jax.tree.map(join, parts), jax.tree.map(lambda a: a.sum(0), numbers)
