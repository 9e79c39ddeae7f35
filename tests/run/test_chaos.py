"""Sweeps under fire (make chaos, minutes): killed workers and crowds of them lose, double and change nothing."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from msgspec import to_builtins
from safetensors.torch import load_file

from karst_bench.records import record as schema

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
KILLS = int(os.environ.get("KARST_BENCH_KILLS", "30"))
CELLS = ["method=karst,lora,bitfit,linear", "dataset=mini/digits,mini/count", "seed=0,1,2"]
COUNT = 4 * 2 * 3
SHORT = ["recipe.epochs=2", "device=cpu", "threads=1"]
MEASURED = ("id", "metrics", "curves", "counts")


def start(results: Path, outputs: Path, words: list[str]) -> subprocess.Popen[bytes]:
    """One worker on the sweep, in a process group of its own."""
    where = [f"paths.results={results}", f"paths.outputs={outputs}"]
    command = [sys.executable, str(ROOT / "run.py"), "-m", *CELLS, *SHORT, *where, *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=quiet, stderr=quiet, start_new_session=True)


def finish(results: Path, outputs: Path) -> None:
    """The same command until it exits with success: all cells are done."""
    for _ in range(3):
        worker = start(results, outputs, [])
        if worker.wait(1800) == 0:
            return
    raise AssertionError("the sweep does not come to an end")


def measured(results: Path) -> dict[str, dict]:
    """The valid records by id, with what must not differ between sweeps."""
    paths = sorted((results / "runs" / "mini").glob("*.json"))
    records = [schema.load(path) for path in paths]
    return {record["id"]: {key: record[key] for key in MEASURED} for record in map(to_builtins, records)}


class Calm(NamedTuple):
    """The undisturbed sweep and how long it took."""

    results: Path
    seconds: float


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    began = time.monotonic()
    finish(folder / "results", folder / "outputs")
    return Calm(folder / "results", time.monotonic() - began)


def assert_equal_sweeps(results: Path, undisturbed: Path) -> None:
    """24 records, equal bit for bit in metrics, curves, counts and adapters; nothing half written lies about."""
    ours, theirs = measured(results), measured(undisturbed)
    assert len(ours) == COUNT
    assert json.dumps(ours, sort_keys=True) == json.dumps(theirs, sort_keys=True)
    for run_id in ours:
        here, there = (load_file(r / "adapters" / "mini" / f"{run_id}.safetensors") for r in (results, undisturbed))
        assert here.keys() == there.keys()
        assert all(torch.equal(here[name], there[name]) for name in here)
    leftovers = [
        path.name for path in results.rglob("*") if path.is_file() and path.suffix not in (".json", ".safetensors")
    ]
    assert not [name for name in leftovers if ".tmp" in name], leftovers
    assert not list((results / "checkpoints").glob("*"))


def test_killed_at_random_moments(tmp_path, undisturbed):
    """Two workers, each killed (SIGKILL) and restarted until 30 have died."""
    rng = random.Random(20261121)
    results, outputs = tmp_path / "results", tmp_path / "outputs"
    workers = [start(results, outputs, []) for _ in range(2)]
    for kill in range(KILLS):
        time.sleep(rng.uniform(0.0, undisturbed.seconds / 5))  # some die at start, some well into the sweep
        victim = kill % 2
        if workers[victim].poll() is None:
            os.killpg(workers[victim].pid, signal.SIGKILL)
        workers[victim].wait()
        workers[victim] = start(results, outputs, [])
        print(
            f"kill {kill + 1}: {len(list((results / 'runs' / 'mini').glob('*.json')))} of {COUNT} records", flush=True
        )
    for worker in workers:
        worker.wait(1800)
    finish(results, outputs)
    assert_equal_sweeps(results, undisturbed.results)


def test_eight_joblib_workers(tmp_path, undisturbed):
    """Eight processes on one results folder, twice over the same cells: no duplicate, no loss."""
    results, outputs = tmp_path / "results", tmp_path / "outputs"
    words = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=4"]
    crowds = [start(results, outputs, words) for _ in range(2)]
    for crowd in crowds:
        crowd.wait(1800)
    finish(results, outputs)
    assert_equal_sweeps(results, undisturbed.results)
