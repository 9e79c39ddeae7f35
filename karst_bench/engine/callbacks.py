"""What a run tells whoever watches it: one object, as many watchers as wanted."""

from collections.abc import Callable, Sequence

from karst_bench.engine.checkpoint import State

Running = Callable[[], tuple[float, float]]  # -> (mean loss, top-1 %) of the epoch so far; asking waits for the device
EpochRow = dict[str, float]  # epoch, train_loss, train_top1_pct, lr, and val_top1_pct or test_top1_pct where one was looked at


class Callbacks:
    """What `fit` calls; every default does nothing. Epochs and steps count from 1, accuracies are in per cent."""

    def on_start(self, epochs: int, steps_per_epoch: int, done: int) -> None:
        """Training begins, or goes on after `done` steps."""

    def on_step(self, epoch: int, done: int, running: Running) -> None:
        """`done` steps of the whole run are done."""

    def on_epoch(self, row: EpochRow) -> None:
        """An epoch ended; its checks are in the row."""

    def on_check(self, epoch: int, split: str, top1_pct: float) -> None:
        """A split was looked at; may raise to end the run."""

    def on_state(self, make: Callable[[], State]) -> None:
        """After each epoch: `make()` copies all that is needed to go on from here, for whoever finds it worth the cost."""

    def should_stop(self) -> bool:
        """Asked after each step; True ends training with Interrupted."""
        return False

    def on_end(self) -> None:
        """Training is over, however it ended."""


class Several(Callbacks):
    """Several watchers as one, called in order; one that wants to stop is enough."""

    def __init__(self, watchers: Sequence[Callbacks]) -> None:
        self.watchers = tuple(watchers)

    def on_start(self, epochs: int, steps_per_epoch: int, done: int) -> None:
        for watcher in self.watchers:
            watcher.on_start(epochs, steps_per_epoch, done)

    def on_step(self, epoch: int, done: int, running: Running) -> None:
        for watcher in self.watchers:
            watcher.on_step(epoch, done, running)

    def on_epoch(self, row: EpochRow) -> None:
        for watcher in self.watchers:
            watcher.on_epoch(row)

    def on_check(self, epoch: int, split: str, top1_pct: float) -> None:
        for watcher in self.watchers:
            watcher.on_check(epoch, split, top1_pct)

    def on_state(self, make: Callable[[], State]) -> None:
        for watcher in self.watchers:
            watcher.on_state(make)

    def should_stop(self) -> bool:
        return any(watcher.should_stop() for watcher in self.watchers)

    def on_end(self) -> None:
        for watcher in self.watchers:
            watcher.on_end()
