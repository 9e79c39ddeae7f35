"""A wish to stop (SIGTERM, Ctrl-C), remembered for the process and answered where nothing is left half done.

Outside `deferred` a signal ends what is going on at once, as Ctrl-C does in any program. Within, it waits for the next
`safe_point`: after a training step, between two batches of an evaluation, between two stages. Whatever had been swallowed on
the way, the next safe point raises, so no further run of a sweep begins. The exit code is 128 + the signal's number.
"""

import os
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, TypeVar

SIGNALS = (signal.SIGTERM, signal.SIGINT)
SAID = b"\nstopping at the next safe point; the same command continues\n"
T = TypeVar("T")


class Stopped(KeyboardInterrupt):  # no Exception: nothing that goes on after errors goes on after this
    """Somebody asked this process to stop, by that signal; what is finished is on disk."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(int(number))
        self.number = int(number)

    def __str__(self) -> str:
        return "the same command continues where it was"


@dataclass
class _Wish:
    """Of this process. number: the first signal; depth: of `deferred` blocks; heard: whether the handlers are ours."""

    number: int | None = None
    depth: int = 0
    heard: bool = False


_WISH = _Wish()


def asked() -> int | None:
    """The signal that asked this process to stop, or None."""
    return _WISH.number


def safe_point() -> None:
    """Raises: Stopped where the process was asked to stop."""
    if _WISH.number is not None:
        raise Stopped(_WISH.number)


def forget() -> None:
    """Nothing was left to stop."""
    _WISH.number = None


def watched(items: Iterable[T]) -> Iterator[T]:
    """The items, with a safe point before each."""
    for item in items:
        safe_point()
        yield item


def keep_listening() -> dict[signal.Signals, Any]:
    """From now on, SIGTERM and Ctrl-C are wishes to stop; returns what handled them before, nothing where they were already
    (or outside the main thread, which hears no signals)."""
    if _WISH.heard or threading.current_thread() is not threading.main_thread():
        return {}
    _WISH.heard = True
    return {number: signal.signal(number, _hear) for number in SIGNALS}


@contextmanager
def listening() -> Iterator[None]:
    """Within, SIGTERM and Ctrl-C are wishes to stop; an inner block changes nothing, nor does one outside the main thread.

    A wish that nobody answered is handed to whoever handled the signal before.
    """
    if not (before := keep_listening()):
        yield
        return
    unanswered = None
    try:
        yield
        unanswered = _WISH.number
    finally:
        _WISH.heard, _WISH.number = False, None
        for number, handler in before.items():
            signal.signal(number, handler)
        if unanswered is not None:
            signal.raise_signal(unanswered)


@contextmanager
def deferred() -> Iterator[None]:
    """Within, a wish to stop waits for a safe point. Raises: Stopped where it was uttered before."""
    safe_point()
    _WISH.depth += 1
    try:
        yield
    finally:
        _WISH.depth -= 1


def _hear(number: int, _frame: FrameType | None) -> None:
    """The signal handler; a second Ctrl-C ends at once."""
    again, _WISH.number = _WISH.number is not None, _WISH.number or number
    if again and number == signal.SIGINT:
        raise KeyboardInterrupt
    if again:
        return
    if not _WISH.depth:
        raise Stopped(number)
    os.write(2, SAID)
