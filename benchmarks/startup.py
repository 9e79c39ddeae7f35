"""What a command costs before it does anything: CPU seconds of its process with warm bytecode, the least of some rounds.

The CPU clock leaves out what other processes took, but not that they share caches and cores: measure on a quiet machine.
The bars: 2 s where nothing heavy is needed; importing timm and 1.5 s for describe; 1 s to a training run's first line.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from karst_bench.cli.app import call

COMMANDS = (
    "--help", "run --help", "run --cfg job", "run method=kars", "run sed=1", "run recipe.lr=abc", "status suite=mini",
    "status suite=vtab", "run sweep=table1 suite=mini dry_run=true", "sweep table1", "data audit --help",
)  # fmt: skip
DESCRIBED = {"vit_mini": "run action=describe", "vit_b16": "run dataset=vtab/dtd action=describe",
             "swin_b": "run dataset=vtab/dtd backbone=swin_b action=describe"}  # fmt: skip
RUN = "run method=linear dataset=mini/digits recipe.epochs=1"
ROUNDS = 5


def measured(rounds: int = ROUNDS) -> dict[str, Any]:
    """{what, rows: {command: {cpu_s, ...}}}."""
    with tempfile.TemporaryDirectory() as folder:
        own = [f"paths.{name}={folder}/{name}" for name in ("results", "outputs", "cache")]
        rows: dict[str, dict[str, float]] = {line: least(_suite(line.split()), rounds) for line in COMMANDS}
        first, _ = until_first_line(_suite([*RUN.split(), *own]), rounds)
        rows["first line of a training run"] = {"cpu_s": first}
        subprocess.run(_suite([*RUN.split(), *own]), check=True, capture_output=True)
        rows["a finished cell"] = least(_suite([*RUN.split(), *own]), rounds)
    for module in ("torch", "timm"):
        rows[f"import {module}"] = least([sys.executable, "-c", f"import {module}"], rounds)
    for name, line in DESCRIBED.items():
        cost = least(_suite(line.split()), rounds)
        rows[f"describe {name}"] = cost | {"over_timm_s": round(cost["cpu_s"] - rows["import timm"]["cpu_s"], 2)}
    return {"what": f"CPU seconds of a process, warm bytecode, least of {rounds}", "rows": rows}


def least(command: Sequence[str], rounds: int) -> dict[str, float]:
    """The least CPU seconds of the rounds."""
    return {"cpu_s": round(min(_cpu_s(command) for _ in range(rounds)), 2)}


def until_first_line(command: Sequence[str], rounds: int) -> tuple[float, str]:
    """(least CPU seconds until something stood on standard error, that line); the process is stopped then."""
    found = [_first_line(command) for _ in range(rounds)]
    return round(min(seconds for seconds, _ in found), 2), found[0][1]


def _suite(words: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "karst_bench", *words]


def _environment() -> dict[str, str]:
    """One thread, and bytecode is kept wherever it was forbidden: what the first round compiles, the next ones find."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return inherited | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[1])}


def _cpu_s(command: Sequence[str]) -> float:
    process = subprocess.Popen(command, env=_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    used = os.wait4(process.pid, 0)[2]
    return used.ru_utime + used.ru_stime


def _first_line(command: Sequence[str]) -> tuple[float, str]:
    process = subprocess.Popen(command, env=_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    line = process.stderr.readline()
    process.terminate()
    used = os.wait4(process.pid, 0)[2]  # what it did between the line and the signal is counted too: an upper bound
    process.stderr.close()
    return used.ru_utime + used.ru_stime, line


def table(rounds: Annotated[int, typer.Option(min=1, help="The least of so many processes each.")] = ROUNDS) -> None:
    """Print what commands of the suite cost before they do anything, in CPU seconds. Takes about half a minute a round."""
    start = time.perf_counter()
    for name, values in measured(rounds)["rows"].items():
        print(f"{name:45s}", values, flush=True)
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    raise SystemExit(call(table, sys.argv[1:], "python -m benchmarks.startup"))
