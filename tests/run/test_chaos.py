"""Sweeps under fire (make chaos, some minutes): stopped workers and crowds of them lose, double and change nothing."""

import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import chaos
import pytest
import torch
from msgspec import to_builtins
from safetensors.torch import load_file

from karst_bench.cli.hydra_app import main
from karst_bench.config.compose import settings_of
from karst_bench.config.sweeps import expand, jobs
from karst_bench.records import record as schema

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
STOPS = int(os.environ.get("KARST_BENCH_STOPS", "300"))
SEED = int(os.environ.get("KARST_BENCH_SEED", "20261126"))
TINY = ["dataset=mini/digits", "backbone.weights=none", "recipe.epochs=3", "recipe.batch=250", "threads=1", "device=cpu",
        "protocol=peek10", "checkpoint_s=0", "lease_s=3", "precision=fp32",
        "backbone.model_args={img_size:32,patch_size:8,embed_dim:32,depth:1,num_heads:2}"]  # fmt: skip
STAGES = ["method.stages.supernet.epochs=2", "method.stages.evolve.population=3", "method.stages.evolve.parents=2",
          "method.stages.evolve.mutants=1", "method.stages.evolve.crossed=1", "method.stages.evolve.generations=1"]  # fmt: skip
SWEEPS = {
    "plain": ["-m", "method=lora,bitfit,linear", "seed=0,1", *TINY],
    "searched": ["-m", "method=noah", "seed=0,1", *TINY, *STAGES],
}
COUNT = {"plain": 6, "searched": 2}
MEASURED = ("id", "metrics", "curves", "counts", "notes")
# 0 and 3: it had ended before the signal came; -15: it did not listen yet, or no more
CODES = {signal.SIGKILL: {-9, 0, 3}, signal.SIGTERM: {143, -15, 0, 3}, signal.SIGINT: {130, 0, 3}}


def places(folder: Path) -> list[str]:
    return [f"paths.{key}={folder / key}" for key in ("results", "outputs")]


def measured(results: Path) -> dict[str, dict]:
    """The valid records by id, with what must not differ between sweeps."""
    records = [schema.load(path) for path in sorted((results / "runs" / "mini").glob("*.json"))]
    return {record.id: {key: to_builtins(record)[key] for key in MEASURED if key in to_builtins(record)} | {
        "adapter": record.adapter} for record in records}  # fmt: skip


def assert_equal_sweeps(results: Path, calm: Path, *, forced: int = 0) -> None:
    """The same records, equal bit for bit in metrics, curves, counts and adapters; each forced so often; nothing half written."""
    ours, theirs = measured(results), measured(calm)
    assert ours.keys() == theirs.keys(), "lost or strange records"
    for run_id, record in ours.items():
        here, there = (load_file(folder / kept[run_id].pop("adapter")) for folder, kept in ((results, ours), (calm, theirs)))
        assert json.dumps(record, sort_keys=True) == json.dumps(theirs[run_id], sort_keys=True)
        assert here.keys() == there.keys() and all(torch.equal(here[name], there[name]) for name in here)
    times = Counter(path.name.split(".")[0] for path in (results / "superseded").rglob("*.json"))
    assert times == (dict.fromkeys(ours, forced) if forced else {}), "run more or less often than asked"
    assert len(list((results / "adapters").rglob("*.safetensors"))) == len(ours)
    assert not list((results / "checkpoints").glob("*.safetensors")) and not list((results / "failed").rglob("*.json"))
    assert not list((results / "forced" / "commands").glob("[!.]*"))


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """The folder of each sweep, undisturbed; what its images are cached in is shared by all."""
    folder = tmp_path_factory.mktemp("calm")
    torch.set_num_threads(1)
    for name, words in SWEEPS.items():  # in this process, which then has imported and composed all that its children need
        assert main([*words, *places(folder / name), f"paths.cache={folder}/cache"]) == 0
        assert len(measured(folder / name / "results")) == COUNT[name]
    return folder


@pytest.fixture(scope="module")
def cells(calm):
    """The settings of each sweep's cells."""
    return {name: [settings_of([*job, f"paths.cache={calm}/cache"]) for job in jobs(expand(words[1:]))]
            for name, words in SWEEPS.items()}  # fmt: skip


class Siege:
    """One sweep with two workers, on two machines whose clocks are an hour apart, that are stopped and started again."""

    def __init__(self, folder: Path, act: Callable[[], int], rng: random.Random, letters: str, *, gated: bool) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.act, self.log, self.rng, self.letters, self.gated = act, folder / "log", rng, letters, gated
        self.stops: Counter[tuple[str, str]] = Counter()
        self.resumes = 0
        self.turn = rng.randrange(len(letters))

    def started(self) -> list[chaos.Worker]:
        """One worker on one of the machines, or one on each."""
        hosts = [("here", 0.0), ("there", 3600.0)]
        self.rng.shuffle(hosts)
        hosts = hosts[: 2 if self.gated and self.rng.random() < 0.5 else 1]
        gate = os.pipe() if len(hosts) == 2 else ()
        workers = [chaos.start(self.act, self.log, machine=name, ahead_s=ahead_s, gate=gate) for name, ahead_s in hosts]
        if gate:
            assert all(worker.listen("g", 1) for worker in workers), self.log.read_text()[-3000:]
            os.close(gate[1])
            os.close(gate[0])
        return workers

    def end(self, worker: chaos.Worker, upto: int) -> int:
        """Stopped at a moment, where it comes to it, or ended by itself; its exit code."""
        self.turn += 1  # each phase in turn: by chance alone the rare ones are not always among them
        letter = self.letters[self.turn % len(self.letters)]
        count, wait_s, number = chaos.moment(self.rng, letter)
        if sum(self.stops.values()) < upto and worker.listen(letter, count):
            time.sleep(wait_s)
            code = worker.stop(number)
            assert code in CODES[number], (code, number, self.log.read_text()[-3000:])
            if code not in (0, 3):
                self.stops[chaos.PHASES[letter][0], signal.Signals(number).name] += 1
        else:
            code = worker.wait()
        self.resumes += worker.heard.count(chaos.RESUMED)
        assert code not in (1, 2, 70), self.log.read_text()[-3000:]
        return code

    def go_on(self, upto: int) -> None:
        """Until the sweep is done; so many workers are stopped at most."""
        while 0 not in [self.end(worker, upto) for worker in self.started()] and not self.forced_to_the_end():
            pass

    def forced_to_the_end(self) -> bool:
        """Whether a worker was stopped when its forced sweep was done but its process was not: the same words begin anew then."""
        commands = self.log.parent / "results" / "forced" / "commands"
        return commands.exists() and not list(commands.glob("[!.]*"))


def test_stopped_at_random_moments_of_every_phase(tmp_path, calm, cells):
    rng, stops, resumes, siege = random.Random(SEED), Counter(), 0, 0
    while sum(stops.values()) < STOPS:
        name, forced = rng.choice(["plain", "plain", "searched"]), siege % 2
        folder, siege = tmp_path / str(siege), siege + 1
        if forced:
            shutil.copytree(calm / name / "results", folder / "results")
        words = [*SWEEPS[name], *places(folder), f"paths.cache={calm}/cache"]
        paths = dataclasses.replace(cells[name][0].paths, results=folder / "results", outputs=folder / "outputs")
        mine = [cell.replace(paths=paths, force=bool(forced)) for cell in cells[name]]
        by_hydra = rng.random() < 0.2
        act = partial(main, [*words, f"force={bool(forced)}"]) if by_hydra else partial(chaos.sweep, mine)
        letters = "".join(letter for letter in chaos.PHASES if name == "searched" or letter not in "fv")
        one = Siege(folder, act, rng, letters, gated=not by_hydra)
        one.go_on(min(STOPS - sum(stops.values()), 40))
        finished = chaos.start(partial(main, words), folder / "log")
        assert finished.wait() == 0, (folder / "log").read_text()[-2000:]
        assert_equal_sweeps(folder / "results", calm / name / "results", forced=forced)
        stops, resumes = stops + one.stops, resumes + one.resumes
        kind = f"{name}{', forced' * forced}{', by Hydra' * by_hydra}"
        print(f"siege {siege}, {kind}: {sum(stops.values())} stops, {resumes} resumes", flush=True)
        shutil.rmtree(folder)
    for (phase, kind), count in sorted(stops.items()):
        print(f"{count:4} x {kind} in {phase}")
    print(f"{sum(stops.values())} stops, {resumes} resumes from a checkpoint, 0 lost, doubled or wrong")
    assert len({phase for phase, _ in stops}) >= len(chaos.PHASES) - 1 or STOPS < 100
    assert resumes > 50 or STOPS < 100


def test_eight_joblib_workers(tmp_path, calm):
    """Eight processes on one results folder, twice over the same cells: no duplicate, no loss."""
    words = [*SWEEPS["plain"], *places(tmp_path), f"paths.cache={calm}/cache"]
    command = [sys.executable, str(ROOT / "run.py"), *words, "hydra/launcher=joblib", "hydra.launcher.n_jobs=4"]
    quiet = subprocess.DEVNULL
    crowds = [subprocess.Popen(command, cwd=ROOT, stdout=quiet, stderr=quiet, start_new_session=True,
                               env=os.environ | {"OMP_NUM_THREADS": "1"}) for _ in range(2)]  # fmt: skip
    assert {crowd.wait(1800) for crowd in crowds} <= {0, 3}
    assert chaos.start(partial(main, words), tmp_path / "log").wait() == 0
    assert_equal_sweeps(tmp_path / "results", calm / "plain" / "results")
