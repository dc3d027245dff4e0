"""Images of files whose names come one by one, such as from a pipe.

Whoever waits for a name must not keep those waiting that were named before: a thread
takes names, others read, and images are handed out in the order of their names as soon
as they are there.

Notation: none.

Differs from the reference in: there is none.

Reference: there is none.
"""

import concurrent.futures
import contextlib
import os
import pathlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from gladjax.images.headers import ImageError, StrPath

T = TypeVar("T")

_PATIENCE = 0.2  # Seconds.


def arriving(
    paths: Iterable[StrPath],
    *,
    read: Callable[[pathlib.Path], T],
    depth: int = 4,
    waiting: Callable[[], None] = lambda: None,
) -> Iterator[tuple[pathlib.Path, T | ImageError]]:
    """Yields images of files, read ahead, whether or not there is a next name yet.

    Args:
      paths: The files; a thread takes the next one where it may have to wait for it.
      read: What turns a path into an image.
      depth: How many images are under way or waiting at once.
      waiting: Called a few times a second while there is nothing to yield; what it
        raises ends the wait.

    Yields:
      Each file in order, and its image or the `ImageError` that reading it raised.

    Raises:
      ValueError: If the depth is below 1.
    """
    if depth < 1:
        raise ValueError(f"depth must be at least 1, not {depth}")
    # One thread more than cores: some of them wait for a disk.
    pool = concurrent.futures.ThreadPoolExecutor(min(depth, 1 + (os.cpu_count() or 1)))
    ready: queue.Queue[Any] = queue.Queue(depth)
    ended = threading.Event()

    def begun() -> Iterator[object]:
        """Yields paths with their images, None at the end, or what went wrong."""
        try:
            for name in paths:
                path = pathlib.Path(name)
                yield path, pool.submit(read, path)
            yield None
        except Exception as error:  # For whoever iterates.
            yield error

    threading.Thread(target=_feed, args=(begun(), ready, ended), daemon=True).start()
    try:
        while (item := _next(ready, waiting)) is not None:
            if isinstance(item, BaseException):
                raise item
            path, future = item
            yield path, _outcome(future)
    finally:
        ended.set()
        pool.shutdown(wait=True, cancel_futures=True)


def _feed(
    items: Iterable[object], ready: queue.Queue[Any], ended: threading.Event
) -> None:
    """Puts items into a queue where there is room, until nobody wants any."""
    for item in items:
        while not ended.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(item, timeout=_PATIENCE)
                break
        if ended.is_set():
            return


def _next(ready: queue.Queue[Any], waiting: Callable[[], None]) -> Any:  # noqa: ANN401
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
