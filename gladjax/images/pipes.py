"""Images of which the names come one by one, such as from a pipe.

Whoever waits for a name must not keep those waiting that were named before: a thread
takes names, others read, and images are handed out in the order of their names as soon
as they are there.

Notation: none.

Differs from the reference in: there is none.

Reference: there is none.
"""

import concurrent.futures
import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from gladjax.images.headers import ImageError

S = TypeVar("S")
T = TypeVar("T")

_PATIENCE = 0.2  # Seconds.


def arriving(
    names: Iterable[S],
    *,
    read: Callable[[S], T],
    depth: int = 4,
    waiting: Callable[[], None] = lambda: None,
) -> Iterator[tuple[S, T | ImageError]]:
    """Yields images, read ahead, whether or not there is a next name yet.

    Args:
      names: Files, or whatever tells which image; a thread takes the next one where it
        may have to wait for it.
      read: What turns a name into an image.
      depth: How many images are under way or waiting at once.
      waiting: Called a few times a second while there is nothing to yield; what it
        raises ends the wait.

    Yields:
      Each name in order, and its image or the `ImageError` that reading it raised.

    Raises:
      ValueError: If the depth is below 1.
    """
    if depth < 1:
        raise ValueError(f"depth must be at least 1, not {depth}")
    # One thread more than cores: some of them wait for a disk.
    pool = concurrent.futures.ThreadPoolExecutor(min(depth, 1 + (os.cpu_count() or 1)))
    ready: queue.SimpleQueue[Any] = queue.SimpleQueue()
    room, ended = threading.Semaphore(depth), threading.Event()

    def begun() -> Iterator[object]:
        """Yields names with their images, None at the end, or what went wrong."""
        try:
            for name in names:
                yield name, pool.submit(read, name)
            yield None
        except Exception as error:  # For whoever iterates.
            yield error

    def feed() -> None:
        """Begins an image where there is room, until nobody wants any."""
        items = begun()
        while not ended.is_set():
            if room.acquire(timeout=_PATIENCE):
                item = next(items, items)
                if item is items:
                    return
                ready.put(item)

    threading.Thread(target=feed, daemon=True).start()
    try:
        while (item := _next(ready, waiting)) is not None:
            if isinstance(item, BaseException):
                raise item
            name, future = item
            outcome = _outcome(future)
            room.release()
            yield name, outcome
    finally:
        ended.set()
        pool.shutdown(wait=True, cancel_futures=True)


def _next(ready: queue.SimpleQueue[Any], waiting: Callable[[], None]) -> Any:  # noqa: ANN401
    while True:
        try:
            return ready.get(timeout=_PATIENCE)
        except queue.Empty:
            waiting()


def _outcome(future: concurrent.futures.Future[T]) -> T | ImageError:
    try:
        return future.result()
    except ImageError as error:
        return error
