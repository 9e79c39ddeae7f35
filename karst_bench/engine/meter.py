"""Seconds by phase, peak memory, and what a person sees while a run goes on."""

import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from karst_bench.engine.checkpoint import State, new_state

REFRESH_S = 0.25  # reading the loss makes the host wait for the device, so not more often than this
Log = Callable[[str], None]
Running = Callable[[], tuple[float, float]]  # -> (mean loss, top-1 %) of the epoch so far


class Meter:
    """Wall seconds by phase (setup, train, evaluate, ...), from its construction on, and peak memory."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.phases: dict[str, float] = {}
        self._start = time.perf_counter()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the block's seconds to the phase; on CUDA the device's work is waited for first."""
        start = time.perf_counter()
        try:
            yield
        finally:
            synchronize(self.device)
            self.phases[name] = self.phases.get(name, 0.0) + time.perf_counter() - start

    @property
    def total_s(self) -> float:
        """Wall seconds since construction."""
        return time.perf_counter() - self._start

    def seconds(self, *names: str) -> dict[str, float]:
        """`<phase>_s` for the given phases (0 if one never ran) and total_s."""
        return {f"{name}_s": self.phases.get(name, 0.0) for name in names} | {"total_s": self.total_s}

    def peak_bytes(self) -> int:
        """CUDA: most bytes of tensors allocated since construction. CPU: the process's largest resident set so far."""
        if self.device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self.device))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given; nothing on the CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Display(Protocol):
    """What `fit` tells a display; epochs and steps are counted from 1."""

    def begin(self, epochs: int, steps_per_epoch: int, done: int) -> None: ...

    def step(self, epoch: int, done: int, running: Running) -> None: ...

    def epoch(self, line: str) -> None: ...

    def end(self) -> None: ...


class Quiet:
    """No bar: one line an epoch to `log`, or nothing without one. For pipes, logs and joblib workers."""

    def __init__(self, log: Log | None = None) -> None:
        self._log = log

    def begin(self, epochs: int, steps_per_epoch: int, done: int) -> None: ...

    def step(self, epoch: int, done: int, running: Running) -> None: ...

    def epoch(self, line: str) -> None:
        if self._log is not None:
            self._log(line)

    def end(self) -> None: ...


class Bar:
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

    def begin(self, epochs: int, steps_per_epoch: int, done: int) -> None:
        self._task = self._progress.add_task(
            self._label, total=epochs * steps_per_epoch, completed=done, epoch=1, epochs=epochs, loss="-", top1="-"
        )
        self._progress.start()

    def step(self, epoch: int, done: int, running: Running) -> None:
        now = time.perf_counter()
        if now - self._last < REFRESH_S:
            return
        self._last = now
        loss, top1 = running()
        self._progress.update(self._task, completed=done, epoch=epoch, loss=f"{loss:.3f}", top1=f"{top1:.1f}")
        self._progress.refresh()

    def epoch(self, line: str) -> None: ...

    def end(self) -> None:
        self._progress.stop()


def display(label: str, *, log: Log | None = None, terminal: bool | None = None) -> Display:
    """A bar on a terminal (standard error), else quiet lines."""
    if terminal is None:
        terminal = sys.stderr.isatty()
    return Bar(label) if terminal else Quiet(log)


class Stopwatch:
    """Adds up the seconds of its blocks; `seconds` counts a running block too."""

    def __init__(self, seconds: float = 0.0) -> None:
        self._before = seconds
        self._start: float | None = None

    @property
    def seconds(self) -> float:
        return self._before + (time.perf_counter() - self._start if self._start is not None else 0.0)

    def __enter__(self) -> Self:
        self._start = time.perf_counter()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._before, self._start = self.seconds, None


@dataclass
class EpochMeter:
    """The running epoch: one 0-d loss and hit count per step, kept on the device until somebody looks."""

    losses: list[Tensor] = field(default_factory=list)
    hits: list[Tensor] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    def means(self) -> tuple[float, float]:
        """(mean loss, top-1 %) over the images so far."""
        sizes = torch.tensor(self.sizes, dtype=torch.float64)
        n = float(sizes.sum())
        loss = torch.stack(self.losses).cpu().double() @ sizes
        return float(loss) / n, 100.0 * float(torch.stack(self.hits).sum()) / n

    def state(self) -> State:
        tensors = {"losses": torch.stack(self.losses).cpu(), "hits": torch.stack(self.hits).cpu()} if self.sizes else {}
        return new_state(tensors, {"sizes": list(self.sizes)})

    @classmethod
    def restored(cls, state: State, device: torch.device) -> "EpochMeter":
        if not state["meta"]["sizes"]:
            return cls()
        losses, hits = (list(state["tensors"][key].to(device).unbind()) for key in ("losses", "hits"))
        return cls(losses, hits, list(state["meta"]["sizes"]))
