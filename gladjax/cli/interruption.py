"""Signals that end a command: none is lost, and none ends it in the middle of an image.

A signal whose handler raises is lost where Python cannot raise, such as in a callback
of the garbage collector. So the handler keeps the signal as well, and a command asks
for it whenever a piece of its work is done. Where pieces are small (`between`), nothing
is raised in the middle of one, unless it takes long: what is stuck, such as a write
that nobody takes, ends by the same signal a few seconds later, or by a second one.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
"""Exit codes, by signal."""

PATIENCE = 5.0
"""Seconds that a piece of work has to end."""

_seen: list[int] = []
_patient: list[threading.Timer | None] = []


def install() -> None:
    """Takes over the signals; only in the main thread, where Python delivers them."""
    _seen.clear()
    _patient.clear()
    if threading.current_thread() is not threading.main_thread():
        return
    for number in CODES:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _handle)


def _handle(number: int, frame: FrameType | None) -> None:
    _seen.append(number)
    if not _patient or len(_seen) > 1:
        _end(number)
    again = threading.Timer(PATIENCE, os.kill, (os.getpid(), number))
    again.daemon = True
    _patient[-1] = again
    again.start()


def _end(number: int) -> None:
    """Ends the command by an exception, so that half-written files are removed."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(CODES[signal.Signals(number)])


def check() -> None:
    """Ends the command if a signal has come.

    Raises:
      KeyboardInterrupt: If it was an interrupt.
      SystemExit: If it was a termination.
    """
    if _seen:
        _end(_seen[0])


def code() -> int | None:
    """Returns the exit code of a signal that has come, None if there was none."""
    return CODES[signal.Signals(_seen[0])] if _seen else None


@contextlib.contextmanager
def between() -> Iterator[None]:
    """Has signals wait for `check`, which is to be called after every small piece.

    Raises:
      KeyboardInterrupt: If there was an interrupt that `check` was not asked for.
      SystemExit: If there was such a termination.
    """
    _patient.append(None)
    try:
        yield
    finally:
        timer = _patient.pop()
        if timer is not None:
            timer.cancel()
    check()
