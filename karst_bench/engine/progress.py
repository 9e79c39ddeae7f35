"""What a person sees while a run goes on: a bar on a terminal, else a line now and then."""

import logging
import sys
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from karst_bench.engine.callbacks import Callbacks, EpochRow, Running

log = logging.getLogger(__name__)
REFRESH_S = 0.25  # reading the loss makes the host wait for the device, so not more often than this
PAUSE_S = 10.0  # between two lines


def epoch_line(row: EpochRow, epochs: int) -> str:
    """`epoch 3/15  loss 0.8731  train top-1 71.2 %  val top-1 64.0 %`."""
    line = f"epoch {row['epoch']:.0f}/{epochs}  loss {row['train_loss']:.4f}  train top-1 {row['train_top1_pct']:.1f} %"
    looks = {key.partition("_")[0]: value for key, value in row.items() if key in ("val_top1_pct", "test_top1_pct")}
    return line + "".join(f"  {split} top-1 {value:.1f} %" for split, value in looks.items())


class Lines(Callbacks):
    """Every epoch goes to the log; a person is due at most once in PAUSE_S seconds, and within a long epoch too."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._epochs = self._steps = 0
        self._last = time.monotonic()

    def on_start(self, epochs: int, steps_per_epoch: int, done: int) -> None:
        self._epochs, self._steps = epochs, steps_per_epoch
        if done:
            log.info("%s: goes on after epoch %d of %d", self._label, done // steps_per_epoch, epochs)

    def on_step(self, epoch: int, done: int, running: Running) -> None:
        now = time.monotonic()
        if now - self._last < PAUSE_S or done % self._steps == 0:
            return
        self._last = now
        loss, top1 = running()
        where = f"epoch {epoch}/{self._epochs}  step {done % self._steps}/{self._steps}"
        log.info("%s: %s  loss %.4f  train top-1 %.1f %%", self._label, where, loss, top1)

    def on_epoch(self, row: EpochRow) -> None:
        now = time.monotonic()
        due = now - self._last >= PAUSE_S
        if due:
            self._last = now
        log.log(logging.INFO if due else logging.DEBUG, "%s: %s", self._label, epoch_line(row, self._epochs))


class Bar(Callbacks):
    """A bar with epoch, loss, running accuracy and time left, drawn by the training thread a few times a second."""

    def __init__(self, label: str, console: Console | None = None) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}  loss {task.fields[loss]}"),
            TextColumn("train top-1 {task.fields[top1]} %"),
            TimeRemainingColumn(),
            console=console or Console(stderr=True),
            auto_refresh=False,
            transient=True,
        )
        self._label = label
        self._last = 0.0
        self._epochs = 0

    def on_start(self, epochs: int, steps_per_epoch: int, done: int) -> None:
        self._epochs = epochs
        self._task = self._progress.add_task(
            self._label, total=epochs * steps_per_epoch, completed=done, epoch=1, epochs=epochs, loss="-", top1="-"
        )
        self._progress.start()

    def on_step(self, epoch: int, done: int, running: Running) -> None:
        now = time.perf_counter()
        if now - self._last < REFRESH_S:
            return
        self._last = now
        loss, top1 = running()
        self._progress.update(self._task, completed=done, epoch=epoch, loss=f"{loss:.3f}", top1=f"{top1:.1f}")
        self._progress.refresh()

    def on_epoch(self, row: EpochRow) -> None:
        log.debug("%s: %s", self._label, epoch_line(row, self._epochs))

    def on_end(self) -> None:
        self._progress.stop()


def progress(label: str, *, terminal: bool | None = None) -> Callbacks:
    """A bar where standard error is a terminal, else lines."""
    if terminal is None:
        terminal = sys.stderr.isatty()
    return Bar(label) if terminal else Lines(label)
