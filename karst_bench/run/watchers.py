"""Who watches a run besides the person: checkpoints, trackers, and the wish to stop."""

import logging
import time
from collections.abc import Callable

from karst_bench import stopping
from karst_bench.engine.callbacks import Callbacks, EpochRow, Running
from karst_bench.engine.checkpoint import State
from karst_bench.errors import DiskError
from karst_bench.records.store import Store
from karst_bench.run.aside import Aside
from karst_bench.trackers.client import Trackers

log = logging.getLogger(__name__)


class Checkpoints(Callbacks):
    """Writes a checkpoint after an epoch if the last one is older than `every_s`: a killed run loses no more than that.

    One that cannot be written is a warning, and the run goes on.
    """

    def __init__(self, store: Store, key: str, every_s: float) -> None:
        self.store, self.key, self.every_s = store, key, every_s
        self._last = time.monotonic()
        self._make: Callable[[], State] | None = None
        self._told = False

    def on_state(self, make: Callable[[], State]) -> None:
        self._make = make
        if time.monotonic() - self._last > self.every_s:
            self.save(make())

    def save(self, state: State) -> None:
        """Writes this state now. Raises: LostLeaseError where another has the cell."""
        try:
            self.store.save_checkpoint(self.key, **state)
        except DiskError as error:
            if not self._told:
                log.warning("no checkpoint, what was done since the last one would be lost if this run was stopped: %s", error)
            self._told = True
        self._last = time.monotonic()

    def save_last(self) -> None:
        """Writes the state after training, where an epoch was trained."""
        if self._make is not None:
            self.save(self._make())


class Shown(Callbacks):
    """What a person sees of the training; where it fails, a note says so and the run goes on unseen."""

    def __init__(self, make: Callable[[], Callbacks], aside: Aside) -> None:
        self._aside = aside
        self._shown: Callbacks | None = None
        self._do(lambda: setattr(self, "_shown", make()))

    def on_start(self, epochs: int, steps_per_epoch: int, done: int) -> None:
        self._tell(lambda shown: shown.on_start(epochs, steps_per_epoch, done))

    def on_step(self, epoch: int, done: int, running: Running) -> None:
        self._tell(lambda shown: shown.on_step(epoch, done, running))

    def on_epoch(self, row: EpochRow) -> None:
        self._tell(lambda shown: shown.on_epoch(row))

    def on_end(self) -> None:
        self._tell(lambda shown: shown.on_end())

    def _tell(self, what: Callable[[Callbacks], None]) -> None:
        shown = self._shown
        if shown is not None:
            self._do(lambda: what(shown))

    def _do(self, act: Callable[[], None]) -> None:
        before = len(self._aside.notes)
        self._aside.of("the progress of training", act, None)
        if len(self._aside.notes) > before:
            self._shown = None


class Tracked(Callbacks):
    """Hands every epoch on to the trackers."""

    def __init__(self, trackers: Trackers) -> None:
        self.trackers = trackers

    def on_epoch(self, row: EpochRow) -> None:
        self.trackers.log(row)


class StopSignals(Callbacks):
    """Whether SIGTERM or Ctrl-C has asked for a stop."""

    def should_stop(self) -> bool:
        return stopping.asked() is not None
