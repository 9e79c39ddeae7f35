"""What goes into and comes out of training besides the model: checks, the fit, and its two ways to end early."""

import signal
from dataclasses import dataclass
from typing import Any

from karst_bench.engine.checkpoint import State
from karst_bench.methods.base import Batches
from karst_bench.stopping import Stopped, asked


class DivergedError(RuntimeError):
    """The training loss or a trained weight became NaN or infinite."""


class Interrupted(Stopped):
    """Training was asked to stop; `state` continues it to the same bits."""

    def __init__(self, state: State) -> None:
        super().__init__(asked() or signal.SIGINT)
        self.state = state


@dataclass(frozen=True)
class Check:
    """Evaluate `split` after the given epochs (counted from 1); choose: keep the weights of the first best one."""

    split: str
    batches: Batches
    epochs: frozenset[int]
    choose: bool = False


@dataclass
class Fit:
    """What training gave. curves: as in a record; best_*: of the check that chooses, None without one."""

    curves: dict[str, list[Any]]
    best_epoch: int | None
    best_top1_pct: float | None
    steps: int
    images: int
    train_s: float
    check_s: float
    step_ms_median: float | None
    captured: bool = False  # whether the steps were replays of a recorded one
    mode: str = "eager"  # how they were run: eager, graph, compile

    @property
    def train_images_per_s(self) -> float:
        """Images trained on per second of training, checks left out."""
        return self.images / self.train_s if self.train_s else 0.0

    def check(self, split: str, epoch: int) -> float | None:
        """The top-1 % of a split after an epoch, if it was looked at."""
        found = [c["top1_pct"] for c in self.curves["checks"] if c["split"] == split and c["epoch"] == epoch]
        return found[0] if found else None

    def peak(self, split: str) -> float | None:
        """The best top-1 % of a split over all checks."""
        return max((c["top1_pct"] for c in self.curves["checks"] if c["split"] == split), default=None)
