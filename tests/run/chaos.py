"""Workers to be stopped: processes forked from one that has imported everything, which say what they are doing.

A worker writes a letter into a pipe whenever a phase begins, so that whoever stops it can choose the phase. It may be told that it
stands on another machine, with another clock.
"""

import datetime
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from karst_bench.cli.outcome import exit_code
from karst_bench.config.settings import Settings
from karst_bench.engine import train
from karst_bench.errors import BusyError
from karst_bench.records import lease, record
from karst_bench.records.forced import forced_command
from karst_bench.records.store import Store
from karst_bench.run import pipeline, searching, training

# letter -> (phase, where, function, seconds that the phase lasts, about)
PHASES: dict[str, tuple[str, Any, str, float]] = {
    "s": ("set-up", pipeline, "prepare", 0.1),
    "t": ("step", train, "train_step", 0.02),
    "c": ("check", train, "top1", 0.02),
    "k": ("checkpoint", Store, "save_checkpoint", 0.004),
    "f": ("stage's product", Store, "save_artefact", 0.004),
    "v": ("candidate", searching, "top1", 0.02),
    "e": ("evaluation", training, "_final_score", 0.02),
    "a": ("adapter", Store, "save_adapter", 0.004),
    "r": ("record", Store, "write", 0.006),
}
RESUMED = "R"


@dataclass
class Worker:
    """A forked process. pid: not waited for before it is reaped here, so no other process can have it."""

    pid: int
    pipe: int
    heard: str = ""
    code: int | None = None

    def listen(self, letter: str, count: int) -> bool:
        """Waits until that phase began for the count-th time; False where the worker ended before."""
        while self.heard.count(letter) < count:
            got = os.read(self.pipe, 4096).decode()
            if not got:
                return False
            self.heard += got
        return True

    def stop(self, number: int) -> int:
        """Sends the signal; gives the exit code as a shell would name it (negative: killed by it)."""
        os.kill(self.pid, number)
        return self.wait()

    def wait(self) -> int:
        """Reads the pipe to its end, then reaps."""
        while got := os.read(self.pipe, 4096):
            self.heard += got.decode()
        if self.code is None:
            self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            os.close(self.pipe)
        return self.code


def sweep(cells: Sequence[Settings]) -> int:
    """As `karst-bench run -m` without Hydra, which takes longer than these cells: passed over is visited again at the end."""

    def visit_all() -> None:
        waiting, before = list(cells), None
        while waiting and len(waiting) != before:
            before, visited, waiting = len(waiting), waiting, []
            for settings in visited:
                try:
                    pipeline.run(settings)
                except BusyError:
                    waiting.append(settings)
        if waiting:
            raise BusyError("others have the rest")

    forced = forced_command(cells[0].paths.results, [cell.title for cell in cells]) if cells[0].force else nullcontext()

    def act() -> None:
        with forced:
            GATE.wait()
            visit_all()

    return exit_code(act, debug=False)


@dataclass
class Gate:
    """Workers that start together wait for each other: one that came when a forced sweep is done would begin it anew."""

    says: int = -1
    opens: int = -1

    def wait(self) -> None:
        if self.opens >= 0:
            os.write(self.says, b"g")
            os.read(self.opens, 1)


GATE = Gate()


def start(act: Callable[[], int], log: Path, *, machine: str = "", ahead_s: float = 0.0, gate: Sequence[int] = ()) -> Worker:
    """A worker that does `act` and exits with its code. machine: its name; ahead_s: how far its clock is ahead."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return Worker(pid, reading)
    code = 70
    try:
        os.close(reading)
        os.setsid()
        to = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for standard in (1, 2):
            os.dup2(to, standard)
        if machine:
            _stand_elsewhere(machine, ahead_s)
        for letter, (_, place, name, _) in PHASES.items():
            _announce(place, name, writing, letter)
        _announce(train, "_resume", writing, RESUMED)
        if gate:
            os.close(gate[1])
            GATE.says, GATE.opens = writing, gate[0]
        code = act()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _announce(place: ModuleType | type, name: str, pipe: int, letter: str) -> None:
    real = getattr(place, name)

    def announced(*arguments: Any, **named: Any) -> Any:
        os.write(pipe, letter.encode())
        return real(*arguments, **named)

    setattr(place, name, announced)


def _stand_elsewhere(machine: str, ahead_s: float) -> None:
    """A host of that name; its processes' numbers mean something among themselves only, and its clock is wrong."""
    clock = time.time
    lease._machine = lambda: f"{machine}.boot.container"
    time.time = lambda: clock() + ahead_s
    record.now = lambda: datetime.datetime.fromtimestamp(time.time(), datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def moment(rng: random.Random, letter: str) -> tuple[int, float, int]:
    """When in that phase: (the how-manieth of its kind, seconds into it, signal)."""
    count = rng.randint(1, 5) if letter == "t" else 1
    number = rng.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT))
    return count, rng.uniform(0, PHASES[letter][3]), number
