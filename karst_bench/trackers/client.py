"""Trackers as the pipeline sees them: they copy what happens in a run and can never hold it up.

Each tracker is a process of its own (worker.py) that reads events, JSON lines, from a pipe; a thread feeds the pipe.
Training only ever puts an event into a queue, so a server that hangs, a missing key, a full disk or a crash in a
tracker's code cost it nothing; one warning at the end says what was not tracked and how to sync it later.
"""

import fcntl
import json
import logging
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, Protocol

from karst_bench.errors import briefly

log = logging.getLogger(__name__)

KINDS = ("wandb", "tensorboard")
PROGRAM = Path(__file__).with_name("worker.py")
PATIENCE_S = 0.5  # how long all runs of a process together wait for trackers at their ends
FEEDING_S = 0.5  # and until their last events are in a pipe, which outlasts this process
PIPE_BYTES, SET_PIPE_SIZE = 1 << 20, 1031  # room for the events of a run; F_SETPIPE_SZ of Linux
AT_ONCE = 4  # trackers of one kind that may still be finishing; a run that finds so many is tracked offline where that exists


class Patience:
    """Seconds that are left to wait, whoever waits."""

    def __init__(self, left_s: float) -> None:
        self.left_s = left_s

    def spend(self, wait: Callable[[float], object]) -> None:
        """Calls `wait` with the seconds that are left."""
        began = time.monotonic()
        wait(max(0.0, self.left_s))
        self.left_s -= time.monotonic() - began


PATIENCE, FEEDING = Patience(PATIENCE_S), Patience(FEEDING_S)


class Tracker(Protocol):
    """What the pipeline tells a tracker; no call blocks for long or raises."""

    def start(self, config: Mapping[str, object], run_id: str, resumed: bool = False) -> None:
        """A run begins (or goes on, if `resumed`) under that id."""

    def log(self, row: Mapping[str, object]) -> None:
        """One epoch: {"epoch": 3, "train_loss": ..., "lr": ..., "val_top1_pct": ...}."""

    def finish(self, record: Mapping[str, object] | None, adapter: Path | None = None) -> None:
        """The run ended with that record (done or failed), or was interrupted (None)."""


class Trackers:
    """Several trackers as one; none at all is fine. One that fails is left out from then on. notes: what failed."""

    def __init__(self, trackers: Iterable[Tracker]) -> None:
        self.trackers = tuple(trackers)
        self.notes: list[str] = []

    def start(self, config: Mapping[str, object], run_id: str, resumed: bool = False) -> None:
        """See Tracker."""
        self._tell(lambda tracker: tracker.start(config, run_id, resumed))

    def log(self, row: Mapping[str, object]) -> None:
        """See Tracker."""
        self._tell(lambda tracker: tracker.log(row))

    def finish(self, record: Mapping[str, object] | None, adapter: Path | None = None) -> None:
        """See Tracker."""
        self._tell(lambda tracker: tracker.finish(record, adapter))

    def _tell(self, what: Callable[[Tracker], None]) -> None:
        for tracker in self.trackers:
            try:
                what(tracker)
            except Exception as error:
                name = getattr(tracker, "kind", type(tracker).__name__)
                note = f"tracking by {name} failed: {briefly(error)}"
                log.warning("%s; the run goes on", note)
                self.notes.append(note)
                self.trackers = tuple(other for other in self.trackers if other is not tracker)


def build_trackers(settings: Mapping[str, object] | None) -> Trackers:
    """The trackers of a `tracker` config node: {kind: its settings}, kinds as in KINDS; `none` and null mean none.

    Raises: ValueError for an unknown kind.
    """
    chosen = {kind: node for kind, node in (settings or {}).items() if isinstance(node, Mapping) and kind != "none"}
    for kind in chosen:
        if kind not in KINDS:
            raise ValueError(f"tracker {kind!r} is unknown; use {', '.join(KINDS)} or none")
    return Trackers(TrackerClient(kind, node) for kind, node in chosen.items() if _installed(kind))


@cache
def _installed(kind: str) -> bool:
    """Whether the tracker's package is here; said once, not in every run of a sweep."""
    if find_spec(kind) is None:
        log.warning("%s: needs the package %s (pip install %s); nothing is tracked, records are whole", kind, kind, kind)
        return False
    return True


class TrackerClient:
    """The training side of one tracker process. patience: how long `finish` waits for it; by default, what the process has left."""

    finishing: ClassVar[list[threading.Thread]] = []
    told: ClassVar[set[str]] = set()

    def __init__(self, kind: str, settings: Mapping[str, object], patience: Patience | None = None) -> None:
        self.kind, self.settings, self.patience = kind, dict(settings), patience or PATIENCE
        if kind == "wandb" and (own := os.environ.get("WANDB_DIR")):
            self.settings["folder"] = own  # W&B's own variable says where its files go
        self._events: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._outcome = self._run_id = ""
        self._thread: threading.Thread | None = None
        self._fed, self._late = threading.Event(), threading.Event()

    def start(self, config: Mapping[str, object], run_id: str, resumed: bool = False) -> None:
        """See Tracker. Paths stay here: they say more about the machine than about the run."""
        shown = {key: value for key, value in config.items() if key not in ("paths", "tracker")}
        self._run_id = run_id
        self.finishing[:] = [thread for thread in self.finishing if thread.is_alive()]
        if self.kind == "wandb" and sum(thread.name == self.kind for thread in self.finishing) >= AT_ONCE:
            self.settings["mode"] = "offline"  # a server that hangs would gather a process for each run
        self._thread = threading.Thread(target=self._feed, name=self.kind, daemon=True)
        self._thread.start()
        self._put("start", config=shown, id=run_id, resumed=resumed)

    def log(self, row: Mapping[str, object]) -> None:
        """See Tracker."""
        self._put("log", row=dict(row))

    def finish(self, record: Mapping[str, object] | None, adapter: Path | None = None) -> None:
        """See Tracker. A tracker that needs longer than there is patience goes on by itself; what it says then is logged."""
        if self._thread is None:
            return
        self._put("finish", record=record, adapter=str(adapter) if adapter else None)
        self._events.put(None)
        FEEDING.spend(self._fed.wait)
        self.patience.spend(self._thread.join)
        if self._thread.is_alive():
            self._late.set()
            self.finishing.append(self._thread)
            if self.kind not in self.told:  # once a process: a sweep may have hundreds of runs
                self.told.add(self.kind)
                folder = self.settings.get("folder")
                sync = f"; what stays offline: wandb sync {folder}/wandb/*-{self._run_id}" if self.kind == "wandb" else ""
                log.warning("%s: still busy, trackers are left to finish alone in %s%s", self.kind, folder, sync)
        elif self._outcome:
            log.warning("%s: %s", self.kind, self._outcome)
        self._thread = None

    def _put(self, event: str, **content: object) -> None:
        self._events.put(json.dumps({"event": event} | content, default=str))

    def _feed(self) -> None:
        """The thread: start the process, hand on events, keep its last line."""
        command = [sys.executable, "-P", str(PROGRAM), self.kind, json.dumps(self.settings, default=str)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        try:
            # A session of its own: Ctrl-C is for the training; the tracker learns of its end by the pipe.
            with subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env=environment,
                start_new_session=True,
            ) as process:
                self._outcome = self._talk(process)
        except OSError as error:
            self._outcome = f"could not be started ({error.strerror}); nothing is tracked, the record is whole"
        self._fed.set()
        if self._outcome and self._late.is_set():
            log.warning("%s: %s", self.kind, self._outcome)

    def _talk(self, process: subprocess.Popen[str]) -> str:
        assert process.stdin is not None and process.stdout is not None
        with suppress(OSError):
            fcntl.fcntl(process.stdin, SET_PIPE_SIZE, PIPE_BYTES)
        with suppress(BrokenPipeError):
            while (event := self._events.get()) is not None:
                process.stdin.write(event + "\n")
                process.stdin.flush()
        with suppress(BrokenPipeError):
            process.stdin.close()
        self._fed.set()
        said = process.stdout.read()
        return said.strip() if said else "ended without a word; what it tracked is not whole, the record is"
