"""Stages before training: each leaves a product, a file of its own beside the records, and a checkpoint while it runs.

Both are named by the run's id and the stage, so they are keyed by all that decides them. A run that was killed reads what
finished stages left, goes on where the killed one stood, and starts those after it.
"""

import json
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from karst_bench.engine.checkpoint import State, new_state
from karst_bench.engine.outcome import Fit
from karst_bench.errors import CheckpointError, DiskError
from karst_bench.methods.base import Artefact
from karst_bench.records.store import Store
from karst_bench.run.prepare import PreparedRun
from karst_bench.stopping import safe_point

log = logging.getLogger(__name__)
T = TypeVar("T")
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
    def written(self) -> Path | None:
        """Where its product lies, or None where it could not be written."""
        path = self.store.artefact_path(self.prepared.id, self.name)
        return path if path.exists() else None

    def product(self, make: Callable[[State | None], State], what: str) -> State:
        """Its product: read where its file stands, else made from the checkpoint that it left, or anew, and written whole.

        What is damaged is made anew, after a warning; where the product cannot be written, it lives as long as the run.
        Raises: Stopped; whatever `make` raises.
        """
        safe_point()
        found = self.store.artefact(self.prepared.id, self.name)
        if found is not None:
            self.work.skip(self.name)
            return new_state(*found)
        log.info("%s: %s%s", self.label, what, self.work.text())
        made = resumed(self.store, self.key, make)
        state = new_state(made["tensors"], json.loads(json.dumps(made["meta"])))  # as a later run will read it
        self.work.done += self.work.images.get(self.name, 0)
        try:
            self.store.save_artefact(self.prepared.id, self.name, **state)
        except DiskError as error:
            log.warning("%s is not kept, a stopped run would make it again: %s", self.label, error)
        else:
            with suppress(OSError):
                self.store.checkpoint_path(self.key).unlink()
        return state


def resumed(store: Store, key: str, make: Callable[[State | None], T]) -> T:
    """What `make` gives from the checkpoint of that key; from none where it is damaged, or of another run, after a warning."""
    saved = store.resumable(key)
    if saved is not None:
        try:
            return make(new_state(*saved))
        except CheckpointError as error:
            store.discard(store.checkpoint_path(key), error)
    return make(None)
