"""Many small runs on one device: runs an hour by how many processes share it, imports and set-up counted.

One run of the embedded suite leaves most of a GPU idle, so processes side by side are what fills it: a free sweep with Hydra's
joblib launcher. Where NVIDIA's MPS is there, the same again under a control daemon of its own.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.measure import Keep, forget

PROCESSES = (1, 4, 8, 12)
RUNS = 6  # of each process
RUN = ("method=karst", "dataset=mini/digits")
MPS = "nvidia-cuda-mps-control"


def measured(
    processes: Sequence[int] = PROCESSES, runs: int = RUNS, more: Sequence[str] = ("device=cuda",), keep: Keep = forget
) -> dict[str, Any]:
    """{what, rows: {"4 processes": {wall_s, runs_per_hour, later_per_hour, speedup, as_alone}}}; later: once each process had its
    first run, so without imports; speedup: of runs_per_hour over one process; as_alone: how many of its runs have the very
    losses that they have there. device=cuda: without one a run fails instead of taking the CPU."""
    rows: dict[str, Any] = {}
    result = {"what": f"{' '.join(RUN)}: {runs} runs a process, all on one device, from the command to its end", "rows": rows}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        sweep(home / "first", 1, 1, more)  # draws the images; all later sweeps find them

        alone: dict[str, Any] = {}

        def add(n: int, environment: Mapping[str, str] | None = None) -> bool:
            results = home / f"{n}_{environment is not None}"
            title = f"{n} process{'es' if n > 1 else ''}{', MPS' if environment else ''}"
            row = rows[title] = side_by_side(results, n, n * runs, more, environment)
            if not alone:
                alone.update(row | {"losses": losses(results)})
            elif "runs_per_hour" in row and "runs_per_hour" in alone:
                row["speedup"] = round(row["runs_per_hour"] / alone["runs_per_hour"], 2)
                both = losses(results).keys() & alone["losses"].keys()
                same = sum(losses(results)[run] == alone["losses"][run] for run in both)
                row["as_alone"] = f"{same} of {len(both)}"
            keep(result)
            return "failed" not in row

        for n in processes:
            add(n)
        if shutil.which(MPS):
            with multi_process_service(home / "mps") as environment:
                all(add(n, environment) for n in processes if n > 1)  # where it serves no one once, it would not the next time
    return result


def side_by_side(
    results: Path, processes: int, runs: int, more: Sequence[str], environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Runs an hour of so many processes. A sweep that fails is a result."""
    start = time.perf_counter()
    failed = sweep(results, processes, runs, more, environment)
    wall = time.perf_counter() - start
    if failed is None and environment is not None and not servers(environment):
        failed = "no server of MPS ran: the processes shared the device without it"
    if failed:
        return {"failed": failed}
    row = {"wall_s": round(wall, 1), "runs_per_hour": round(3600 * runs / wall)}
    ends = sorted(path.stat().st_mtime for path in records(results))
    if runs > processes and ends[-1] > ends[processes - 1]:
        row["later_per_hour"] = round(3600 * (runs - processes) / (ends[-1] - ends[processes - 1]))
    return row


def sweep(
    results: Path, processes: int, runs: int, more: Sequence[str], environment: Mapping[str, str] | None = None
) -> str | None:
    """One command, as a person would type it; its last line where it fails."""
    where = [f"paths.results={results}", f"paths.outputs={results}", f"paths.cache={results.parent / 'cache'}"]
    launcher = ["hydra/launcher=joblib", f"hydra.launcher.n_jobs={processes}"] if processes > 1 else []
    seeds = ",".join(map(str, range(runs)))
    command = [sys.executable, "-m", "karst_bench", "run", "-m", *RUN, f"seed={seeds}", *where, *launcher, *more]
    threads = str(max(1, (os.cpu_count() or 1) // processes))
    paths = [str(Path(__file__).resolve().parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    own = {"OMP_NUM_THREADS": threads, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(command, env=os.environ | own | (environment or {}), capture_output=True, text=True, check=False)
    made = len(records(results))
    if done.returncode or made < runs:
        return f"exit {done.returncode}, {made} of {runs} records: {(done.stderr.strip().splitlines() or [''])[-1][:120]}"
    return None


def records(results: Path) -> list[Path]:
    """Of finished runs."""
    return list(results.glob("runs/*/*.json"))


def losses(results: Path) -> dict[str, list[float]]:
    """Of every epoch, by the run's id."""
    return {path.stem: json.loads(path.read_text())["curves"]["train_loss"] for path in records(results)}


@contextmanager
def multi_process_service(folder: Path) -> Iterator[dict[str, str]]:
    """A daemon of this user's own; the environment that its clients need."""
    folder.mkdir()  # in a temporary folder: a socket's path must be short
    own = {"CUDA_MPS_PIPE_DIRECTORY": str(folder), "CUDA_MPS_LOG_DIRECTORY": str(folder)}
    subprocess.run([MPS, "-d"], env=os.environ | own, check=False)
    try:
        yield own
    finally:
        subprocess.run([MPS], input="quit\n", text=True, env=os.environ | own, check=False)


def servers(environment: Mapping[str, str]) -> list[str]:
    """The process ids of the servers that the daemon began for its clients: none where they went past it."""
    asked = subprocess.run([MPS], input="get_server_list\n", text=True, capture_output=True, env=os.environ | environment,
                           check=False)  # fmt: skip
    return [word for word in asked.stdout.split() if word.isdigit()]
