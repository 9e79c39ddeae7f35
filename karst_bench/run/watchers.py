"""Who watches a run besides the person: checkpoints, trackers, and the signals that ask it to stop."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from karst_bench.engine.callbacks import Callbacks, EpochRow
from karst_bench.engine.checkpoint import State
from karst_bench.records.store import Store
from karst_bench.trackers.client import Trackers

CHECKPOINT_S = 60.0


class Checkpoints(Callbacks):
    """Writes a checkpoint after an epoch if the last one is older than CHECKPOINT_S: a killed run loses no more than that."""

    def __init__(self, store: Store, run_id: str) -> None:
        self.store, self.run_id = store, run_id
        self._last = time.monotonic()

    def on_state(self, make: Callable[[], State]) -> None:
        if time.monotonic() - self._last > CHECKPOINT_S:
            self.store.save_checkpoint(self.run_id, **make())
            self._last = time.monotonic()


class Tracked(Callbacks):
    """Hands every epoch on to the trackers."""

    def __init__(self, trackers: Trackers) -> None:
        self.trackers = trackers

    def on_epoch(self, row: EpochRow) -> None:
        self.trackers.log(row)


class StopSignals(Callbacks):
    """Whether SIGTERM or Ctrl-C has asked for a stop."""

    def __init__(self) -> None:
        self.asked = threading.Event()

    def should_stop(self) -> bool:
        return self.asked.is_set()

    def ask(self, number: int, _frame: FrameType | None) -> None:
        """The signal handler; a second Ctrl-C ends at once."""
        if self.asked.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked.set()
        os.write(sys.stderr.fileno(), b"\nstopping after this step; the run can be continued\n")


@contextmanager
def stop_signals() -> Iterator[StopSignals]:
    """Turns SIGTERM and the first Ctrl-C into a request that training answers after its step, with a checkpoint."""
    signals = StopSignals()
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    before = {number: signal.signal(number, signals.ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
