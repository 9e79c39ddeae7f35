"""Trackers as the pipeline sees them: mirrors of a run that copy what happens and can never hold it up.

Each tracker is a process of its own (trackers.py) that reads events, JSON lines, from a pipe; a thread feeds the pipe.
Training only ever puts an event into a queue, so a server that hangs, a missing key, a full disk or a crash in a
tracker's code cost it nothing; one line at the end says what became of the mirror and how to sync it later.
"""

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

KINDS = ("wandb", "tensorboard")
PROGRAM = Path(__file__).with_name("worker.py")
WAIT_S = 8.0  # how long the end of a run waits for its mirrors before it leaves them to finish alone


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


def build(settings: Mapping[str, Any] | None, say: Callable[[str], None] = print) -> Trackers:
    """The trackers of a `tracker` config node: {kind: its settings}, kinds as in KINDS; `none` and null mean none.

    `say` gets the one line a mirror has to report. Raises ValueError for an unknown kind.
    """
    chosen = {kind: node for kind, node in (settings or {}).items() if isinstance(node, Mapping) and kind != "none"}
    for kind in chosen:
        if kind not in KINDS:
            raise ValueError(f"tracker {kind!r} is unknown; use {', '.join(KINDS)} or none")
    return Trackers(TrackerClient(kind, node, say) for kind, node in chosen.items())


class TrackerClient:
    """The training side of one tracker process."""

    def __init__(
        self, kind: str, settings: Mapping[str, Any], say: Callable[[str], None] = print, wait_s: float = WAIT_S
    ) -> None:
        self.kind, self.settings, self.say, self.wait_s = kind, dict(settings), say, wait_s
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
        """See Tracker. Waits `wait_s` at most; a mirror that needs longer goes on by itself."""
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
            self.say(f"{self.kind}: {self._outcome}")
        self._thread = None

    def _put(self, event: str, **content: Any) -> None:
        self._events.put(json.dumps({"event": event} | content, default=str))

    def _feed(self) -> None:
        """The thread: start the process, hand on events, keep its last line."""
        command = [sys.executable, "-P", str(PROGRAM), self.kind, json.dumps(self.settings, default=str)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        try:
            # A session of its own: Ctrl-C is for the training; the mirror learns of its end by the pipe.
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
            self._outcome = f"could not be started ({error.strerror}); this run has no mirror, its record is whole"

    def _talk(self, process: subprocess.Popen[str]) -> str:
        assert process.stdin is not None and process.stdout is not None
        with suppress(BrokenPipeError):
            while (event := self._events.get()) is not None:
                process.stdin.write(event + "\n")
                process.stdin.flush()
        with suppress(BrokenPipeError):
            process.stdin.close()
        said = process.stdout.read()
        return said.strip() if said else "ended without a word; the mirror is not whole, the record is"
