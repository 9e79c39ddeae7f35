"""Stages before training: each leaves a product, a file of its own beside the records, and a checkpoint while it runs.

Both are named by the run's id and the stage, so they are keyed by all that decides them. A run that was killed reads what
finished stages left, goes on where the killed one stood, and starts those after it.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from karst_bench.engine.checkpoint import State, new_state
from karst_bench.engine.outcome import Fit
from karst_bench.methods.base import Artefact
from karst_bench.records.store import Store
from karst_bench.run.prepare import PreparedRun

log = logging.getLogger(__name__)
PASS_BACK = 3  # an image trained on costs about this many images looked at


@dataclass(frozen=True)
class Found:
    """What the stages before training found. artefacts: what methods are attached from, by name; file: where it lies; kept:
    trained tensors and the fit that made them on `split`, where the run trains nothing after them."""

    artefacts: Mapping[str, Artefact] = field(default_factory=dict)
    file: Path | None = None
    notes: tuple[str, ...] = ()
    kept: State | None = None
    fit: Fit | None = None
    split: str | None = None


class Workload:
    """The work of all stages in images looked at, and how much of it is done: what is left takes as long an image."""

    def __init__(self, images: Mapping[str, int]) -> None:
        self.images = dict(images)
        self.began = time.monotonic()
        self.done = 0

    def skip(self, stage: str) -> None:
        """That stage was done before, by another process."""
        self.images[stage] = 0

    def left_s(self) -> float | None:
        """Seconds until the last stage is done, None before anything was."""
        left = sum(self.images.values()) - self.done
        return left * (time.monotonic() - self.began) / self.done if self.done else None

    def text(self) -> str:
        """`, about 40 s left in all`, or nothing before anything was done."""
        left = self.left_s()
        return "" if left is None else f", about {left:.0f} s left in all"


@dataclass(frozen=True)
class Stage:
    """One stage of a run, the `number`-th of `names`, the last of which is the training that every run ends with."""

    prepared: PreparedRun
    store: Store
    names: tuple[str, ...]
    name: str
    work: Workload

    @property
    def key(self) -> str:
        """The name of its checkpoint."""
        return f"{self.prepared.id}.{self.name}"

    @property
    def label(self) -> str:
        """`glora on mini/digits (vit_mini, seed 0), stage 1 of 3, supernet`."""
        return f"{self.prepared.title}, stage {self.names.index(self.name) + 1} of {len(self.names)}, {self.name}"

    @property
    def file(self) -> Path:
        """Where its product lies, or will."""
        return self.store.artefact_path(self.prepared.id, self.name)

    def product(self, make: Callable[[State | None], State], what: str) -> State:
        """Its product: read where its file stands, else made from the checkpoint that it left, or anew, and written whole.

        Raises: UserError where the file is damaged or cannot be written; whatever `make` raises.
        """

        def made() -> State:
            log.info("%s: %s%s", self.label, what, self.work.text())
            saved = self.store.load_checkpoint(self.key)
            state = make(None if saved is None else new_state(*saved))
            self.work.done += self.work.images.get(self.name, 0)
            return state

        if self.file.exists():
            self.work.skip(self.name)
        state = new_state(*self.store.artefact(self.prepared.id, self.name, lambda: _pair(made())))
        self.store.drop_checkpoint(self.key)
        return state

    def save(self, state: State) -> None:
        """Its checkpoint."""
        self.store.save_checkpoint(self.key, **state)


def _pair(state: State) -> tuple[dict, dict]:  # type: ignore[type-arg]
    return state["tensors"], state["meta"]
