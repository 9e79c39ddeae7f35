"""One run as a job of a cluster: what is called on the machine that has it, and what it says when it is over."""

import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from karst_bench import stopping
from karst_bench.cli.console import attach_console
from karst_bench.config.compose import settings_of
from karst_bench.config.settings import Settings
from karst_bench.errors import BusyError, UserError
from karst_bench.records.identity import cell_key
from karst_bench.records.lease import BEATS_PER_LEASE, Leases
from karst_bench.stopping import Stopped, StoppedAtOnce

BEFORE_LIMIT = (signal.SIGUSR1, signal.SIGUSR2)  # what schedulers send when the time limit is near
OURS = "KARST_BENCH_"


@dataclass(frozen=True)
class Outcome:
    """How a job ended. kind: done | busy (another process has the run) | failed | bad_input | dead (no word from it) |
    cancelled | limit (met its time limit too often); said: one line."""

    kind: str
    said: str


def ours(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that a run is described by, beside its words."""
    return {key: value for key, value in environment.items() if key.startswith(OURS)}


@dataclass(frozen=True)
class RunJob:
    """One run. words: its command line; folder: where that was given; environment: the suite's own variables there."""

    words: tuple[str, ...]
    folder: str
    environment: Mapping[str, str] = field(default_factory=dict)

    def __call__(self) -> Outcome:
        """Does the run. One that is told to stop leaves its checkpoint, lets the scheduler requeue the job and ends the process."""
        before = stopping.keep_listening(BEFORE_LIMIT)
        try:
            attach_console()
            os.environ.update(self.environment)
            os.chdir(self.folder)
            return self._run(settings_of(self.words))
        except (Stopped, StoppedAtOnce) as stopped:
            _leave(stopped.number, before)
        except UserError as error:
            return Outcome("bad_input", str(error))
        except Exception as error:
            return Outcome("failed", f"{type(error).__name__}: {error}")

    def checkpoint(self) -> object:
        """What submitit puts into the queue again: this job, which goes on from the run's own checkpoint."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)

    def _run(self, settings: Settings) -> Outcome:
        from karst_bench.run.lookup import accuracy_text
        from karst_bench.run.pipeline import run

        while True:
            try:
                return Outcome("done", accuracy_text(run(settings)))
            except BusyError as error:
                if not _is_let_go(settings):
                    return Outcome("busy", str(error))


def _is_let_go(settings: Settings) -> bool:
    """Waits for who has the run as long as nothing is heard of it, as of the node this job was on before it died; False where it
    lives, which two beats tell."""
    leases, key = Leases(settings.paths.results, settings.lease_s), cell_key(settings.as_config())
    first = leases.last_beat(key)
    waiting_until = time.monotonic() + 2 * settings.lease_s
    while (beat := leases.last_beat(key)) is not None:
        if beat != first or time.monotonic() > waiting_until:
            return False
        stopping.safe_point()
        time.sleep(settings.lease_s / BEATS_PER_LEASE / 4)
    return True


def _leave(number: int, before: Mapping[signal.Signals, Any]) -> NoReturn:
    """Ends the process of a stopped job without an outcome: whether it is to run again is for the scheduler to say.

    Raises: submitit's UncompletedJobError where it does not requeue the job once more, which becomes the job's outcome.
    """
    print("stopped; the same job continues", file=sys.stderr, flush=True)
    handler, code = before.get(signal.Signals(number)), 128 + number
    try:
        if callable(handler):
            handler(number, None)  # submitit's own, which requeues the job
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else code
    sys.stdout.flush()
    os._exit(code & 0xFF)
