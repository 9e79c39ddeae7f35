"""A wish to stop (SIGTERM, Ctrl-C), remembered for the process and answered where nothing is left half done.

Outside `deferred` a signal ends what is going on at once, as Ctrl-C does in any program. Within, it waits for the next
`safe_point`: after a training step, between two batches of an evaluation, between two stages. Whatever had been swallowed on
the way, the next safe point raises, so no further run of a sweep begins. The exit code is 128 + the signal's number.

Where no safe point comes (a library waits for a process that is gone), a second signal ends at once. Two SIGTERMs within
DOUBLED_S are one wish: a scheduler sends it to every process, and a process group hears it twice.
"""

import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

SIGNALS = (signal.SIGTERM, signal.SIGINT)
SAID = b"\nstopping at the next safe point; the same command continues; a second signal ends at once\n"
DOUBLED_S = 2.0
T = TypeVar("T")


class Stopped(KeyboardInterrupt):  # no Exception: nothing that goes on after errors goes on after this
    """Somebody asked this process to stop, by that signal; what is finished is on disk."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(int(number))
        self.number = int(number)

    def __str__(self) -> str:
        return "the same command continues where it was"


class StoppedAtOnce(KeyboardInterrupt):
    """The second signal of somebody who does not want to wait; what was done since the last checkpoint is lost."""

    def __init__(self, number: int) -> None:
        super().__init__(int(number))
        self.number = int(number)

    def __str__(self) -> str:
        return "not at a safe point: the same command continues from its last checkpoint"


@dataclass
class _Wish:
    """Of this process. number: the first signal, which came at at_s; depth: of `deferred` blocks; heard: whether the handlers
    are ours; hurried: whether a second signal came; shared: a file that says the wish to other processes."""

    number: int | None = None
    at_s: float = 0.0
    depth: int = 0
    heard: bool = False
    hurried: bool = False
    shared: Path | None = None


_WISH = _Wish()


def asked() -> int | None:
    """The signal that asked this process to stop, or None."""
    return _WISH.number


def safe_point() -> None:
    """Raises: Stopped where the process was asked to stop."""
    if _WISH.number is not None:
        raise Stopped(_WISH.number)


def ask(number: int) -> None:
    """A wish to stop that came by another way than a signal; the first one stands."""
    if _WISH.number is None:
        _WISH.number, _WISH.at_s = number, time.monotonic()


def hurried() -> bool:
    """Whether a second signal came: who ends the process waits for nobody."""
    return _WISH.hurried


def forget() -> None:
    """Nothing was left to stop."""
    _WISH.number = None


def share(file: Path | None) -> None:
    """From now on, a signal's number is written there too; None: no longer."""
    _WISH.shared = file


def watched(items: Iterable[T]) -> Iterator[T]:
    """The items, with a safe point before each."""
    for item in items:
        safe_point()
        yield item


def keep_listening(more: Iterable[signal.Signals] = ()) -> dict[signal.Signals, Any]:
    """From now on, SIGTERM, Ctrl-C and `more` are wishes to stop; returns what handled them before, nothing where they were
    already (or outside the main thread, which hears no signals)."""
    if _WISH.heard or threading.current_thread() is not threading.main_thread():
        return {}
    _WISH.heard, _WISH.hurried = True, False
    return {number: signal.signal(number, _hear) for number in (*SIGNALS, *more)}


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


def defer_for_good() -> None:
    """From now on every wish to stop waits for a safe point: of a process that others give one run after the other."""
    _WISH.depth += 1


def _hear(number: int, _frame: FrameType | None) -> None:
    """The signal handler. Raises: StoppedAtOnce at the second signal, Stopped at the first outside `deferred`."""
    if _WISH.number is not None:
        if number == signal.SIGINT or time.monotonic() - _WISH.at_s > DOUBLED_S:
            _WISH.hurried = True
            raise StoppedAtOnce(number)
        return
    ask(number)
    if _WISH.shared is not None:
        with suppress(OSError):
            _WISH.shared.write_text(str(number))
    if not _WISH.depth:
        raise Stopped(number)
    os.write(2, SAID)
