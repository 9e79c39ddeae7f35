"""Seconds by phase, peak memory, and the sums of the running epoch."""

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from karst_bench.engine.checkpoint import State, new_state


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


class Stopwatch:
    """Adds up the seconds of its blocks; `seconds` counts a running block too."""

    def __init__(self, seconds: float = 0.0) -> None:
        self._before = seconds
        self._start: float | None = None

    @property
    def seconds(self) -> float:
        """Wall-clock seconds of all blocks so far."""
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
        """What a checkpoint in the middle of an epoch keeps of it."""
        tensors = {"losses": torch.stack(self.losses).cpu(), "hits": torch.stack(self.hits).cpu()} if self.sizes else {}
        return new_state(tensors, {"sizes": list(self.sizes)})

    @classmethod
    def restored(cls, state: State, device: torch.device) -> "EpochMeter":
        """The epoch as `state` left it, on the device where it goes on."""
        if not state["meta"]["sizes"]:
            return cls()
        losses, hits = (list(state["tensors"][key].to(device).unbind()) for key in ("losses", "hits"))
        sizes = list(state["meta"]["sizes"])
        counted = all(type(n) is int and n > 0 for n in sizes) and not any(t.ndim for t in (*losses, *hits))
        if not counted or not len(losses) == len(hits) == len(sizes):
            raise ValueError(f"{len(sizes)} steps, {len(losses)} losses and {len(hits)} hit counts of an epoch")
        return cls(losses, hits, sizes)
