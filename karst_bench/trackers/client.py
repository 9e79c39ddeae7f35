"""Trackers as the pipeline sees them: they copy what happens in a run and can never hold it up.

Each tracker is a process of its own (worker.py) that reads events, JSON lines, from a pipe; a thread feeds the pipe.
Training only ever puts an event into a queue, so a server that hangs, a missing key, a full disk or a crash in a
tracker's code cost it nothing; one warning at the end says what was not tracked and how to sync it later.
"""

import json
import logging
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

log = logging.getLogger(__name__)

KINDS = ("wandb", "tensorboard")
PROGRAM = Path(__file__).with_name("worker.py")
WAIT_S = 8.0  # how long the end of a run waits for a tracker before it leaves it to finish alone


class Tracker(Protocol):
    """What the pipeline tells a tracker; no call blocks for long or raises."""

    def start(self, config: Mapping[str, Any], run_id: str, resumed: bool = False) -> None:
        """A run begins (or goes on, if `resumed`) under that id."""

    def log(self, row: Mapping[str, Any]) -> None:
        """One epoch: {"epoch": 3, "train_loss": ..., "lr": ..., "val_top1_pct": ...}."""

    def finish(self, record: Mapping[str, Any] | None, adapter: Path | None = None) -> None:
        """The run ended with that record (done or failed), or was interrupted (None)."""


class Trackers:
    """Several trackers as one; none at all is fine."""

    def __init__(self, trackers: Iterable[Tracker]) -> None:
        self.trackers = tuple(trackers)

    def start(self, config: Mapping[str, Any], run_id: str, resumed: bool = False) -> None:
        """See Tracker."""
        for tracker in self.trackers:
            tracker.start(config, run_id, resumed)

    def log(self, row: Mapping[str, Any]) -> None:
        """See Tracker."""
        for tracker in self.trackers:
            tracker.log(row)

    def finish(self, record: Mapping[str, Any] | None, adapter: Path | None = None) -> None:
        """See Tracker."""
        for tracker in self.trackers:
            tracker.finish(record, adapter)


def build_trackers(settings: Mapping[str, Any] | None) -> Trackers:
    """The trackers of a `tracker` config node: {kind: its settings}, kinds as in KINDS; `none` and null mean none.

    Raises: ValueError for an unknown kind.
    """
    chosen = {kind: node for kind, node in (settings or {}).items() if isinstance(node, Mapping) and kind != "none"}
    for kind in chosen:
        if kind not in KINDS:
            raise ValueError(f"tracker {kind!r} is unknown; use {', '.join(KINDS)} or none")
    return Trackers(TrackerClient(kind, node) for kind, node in chosen.items())


class TrackerClient:
    """The training side of one tracker process. wait_s: how long `finish` waits for it, in seconds."""

    def __init__(self, kind: str, settings: Mapping[str, Any], wait_s: float = WAIT_S) -> None:
        self.kind, self.settings, self.wait_s = kind, dict(settings), wait_s
        self._events: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._outcome = self._run_id = ""
        self._thread: threading.Thread | None = None

    def start(self, config: Mapping[str, Any], run_id: str, resumed: bool = False) -> None:
        """See Tracker. Paths stay here: they say more about the machine than about the run."""
        shown = {key: value for key, value in config.items() if key not in ("paths", "tracker")}
        self._run_id = run_id
        self._thread = threading.Thread(target=self._feed, daemon=True)
        self._thread.start()
        self._put("start", config=shown, id=run_id, resumed=resumed)

    def log(self, row: Mapping[str, Any]) -> None:
        """See Tracker."""
        self._put("log", row=dict(row))

    def finish(self, record: Mapping[str, Any] | None, adapter: Path | None = None) -> None:
        """See Tracker. Waits `wait_s` at most; a tracker that needs longer goes on by itself."""
        if self._thread is None:
            return
        self._put("finish", record=record, adapter=str(adapter) if adapter else None)
        self._events.put(None)
        self._thread.join(self.wait_s)
        if self._thread.is_alive():
            folder = self.settings.get("folder")
            sync = f"; if it stays offline: wandb sync {folder}/wandb/*-{self._run_id}" if self.kind == "wandb" else ""
            self._outcome = f"still busy after {self.wait_s:.0f} s, left to finish alone in {folder}{sync}"
        if self._outcome:
            log.warning("%s: %s", self.kind, self._outcome)
        self._thread = None

    def _put(self, event: str, **content: Any) -> None:
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

    def _talk(self, process: subprocess.Popen[str]) -> str:
        assert process.stdin is not None and process.stdout is not None
        with suppress(BrokenPipeError):
            while (event := self._events.get()) is not None:
                process.stdin.write(event + "\n")
                process.stdin.flush()
        with suppress(BrokenPipeError):
            process.stdin.close()
        said = process.stdout.read()
        return said.strip() if said else "ended without a word; what it tracked is not whole, the record is"
