"""Many small runs on one device: runs an hour by how many processes share it, imports and set-up counted.

One run of the embedded suite leaves most of a GPU idle, so processes side by side are what fills it: a free sweep with Hydra's
joblib launcher. Where NVIDIA's MPS is there, the same again under a control daemon of its own.
"""

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

PROCESSES = (1, 2, 4, 8)
RUNS = 8  # of each process
RUN = ("method=karst", "dataset=mini/digits")
MPS = "nvidia-cuda-mps-control"


def measured(processes: Sequence[int] = PROCESSES, runs: int = RUNS, more: Sequence[str] = ()) -> dict[str, Any]:
    """{what, rows: {"4 processes": {wall_s, runs_per_hour, ratio}}}, ratios to one process."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        sweep(home / "first", 1, 1, more)  # draws the images; all later sweeps find them
        rows = {f"{n} processes": side_by_side(home, n, n * runs, more) for n in processes}
        if shutil.which(MPS):
            with multi_process_service(home / "mps") as environment:
                rows |= {f"{n} processes, MPS": side_by_side(home, n, n * runs, more, environment) for n in processes if n > 1}
    first = rows[f"{processes[0]} processes"].get("runs_per_hour")
    for row in rows.values():
        if first and "runs_per_hour" in row:
            row["speedup"] = round(row["runs_per_hour"] / first, 2)
    return {"what": f"{' '.join(RUN)}: {runs} runs a process, all on one device, from the command to its end", "rows": rows}


def side_by_side(
    home: Path, processes: int, runs: int, more: Sequence[str], environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Runs an hour of so many processes. A sweep that fails is a result."""
    start = time.perf_counter()
    failed = sweep(home / f"{processes}_{environment is not None}", processes, runs, more, environment)
    wall = time.perf_counter() - start
    row: dict[str, Any] = {"failed": failed} if failed else {"wall_s": round(wall, 1), "runs_per_hour": round(3600 * runs / wall)}
    print(f"  {processes} processes{', MPS' if environment else ''}: {row}", flush=True)  # not lost where time runs out
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
    made = len(list(results.glob("runs/**/*.json")))
    if done.returncode or made < runs:
        return f"exit {done.returncode}, {made} of {runs} records: {(done.stderr.strip().splitlines() or [''])[-1][:120]}"
    return None


@contextmanager
def multi_process_service(folder: Path) -> Iterator[dict[str, str]]:
    """A daemon of this user's own; the environment that its clients need."""
    folder.mkdir()
    own = {"CUDA_MPS_PIPE_DIRECTORY": str(folder), "CUDA_MPS_LOG_DIRECTORY": str(folder)}
    subprocess.run([MPS, "-d"], env=os.environ | own, check=False)
    try:
        yield own
    finally:
        subprocess.run([MPS], input="quit\n", text=True, env=os.environ | own, check=False)
