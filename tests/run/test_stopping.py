"""Told to stop in any phase, a process leaves its state, runs no further cell, and goes on to the same bits."""

import contextlib
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from karst_bench import stopping
from karst_bench.cli.hydra_app import main
from karst_bench.cli.outcome import exit_code
from karst_bench.config.compose import settings_of
from karst_bench.engine import train
from karst_bench.errors import DiskError
from karst_bench.records import record as schema
from karst_bench.records.lease import Leases
from karst_bench.records.store import Store
from karst_bench.run import pipeline, searching, training, watchers

TINY = ["method=bitfit", "dataset=mini/digits", "backbone.weights=none", "recipe.epochs=2", "recipe.batch=250", "threads=1",
        "protocol=peek10", "backbone.model_args={img_size:32,patch_size:8,embed_dim:32,depth:1,num_heads:2}"]  # fmt: skip


@pytest.fixture
def words(tmp_path, mini_cache, monkeypatch):
    """A command line of two cells, through Hydra."""
    monkeypatch.chdir(tmp_path)
    return lambda *more: ["-m", *TINY, "seed=0,1", f"paths.results={tmp_path}/results", f"paths.cache={mini_cache}", *more]


@pytest.fixture(scope="module")
def composed(mini_cache):
    return settings_of([*TINY, f"paths.cache={mini_cache}"])


@pytest.fixture
def sweep(composed, tmp_path):
    """sweep(): the same two cells without Hydra, which takes longer than they do; gives the exit code."""

    def run_both(folder=tmp_path / "results", **changes):
        paths = dataclasses.replace(composed.paths, results=folder)
        cells = [composed.replace(**changes, seed=seed, paths=paths) for seed in (0, 1)]
        return exit_code(lambda: [pipeline.run(cell) for cell in cells] and 0, debug=False)

    return run_both


@pytest.fixture(scope="module")
def calm(composed, tmp_path_factory):
    """The folder of the undisturbed sweep."""
    folder = tmp_path_factory.mktemp("calm")
    paths = dataclasses.replace(composed.paths, results=folder)
    for seed in (0, 1):
        pipeline.run(composed.replace(seed=seed, paths=paths))
    return folder


def records(folder: Path) -> dict:
    """What must not differ, by id."""
    found = [schema.load(path) for path in sorted((folder / "runs" / "mini").glob("*.json"))]
    return {one.id: (one.metrics, one.curves, one.counts) for one in found}


def signalled(monkeypatch, place, name, number=signal.SIGTERM, at=1, before=True):
    """The at-th call of a function is when the signal comes, before it or after."""
    real, calls = getattr(place, name), []

    def call(*arguments, **named):
        calls.append(name)
        if len(calls) == at and before:
            os.kill(os.getpid(), number)
        result = real(*arguments, **named)
        if len(calls) == at and not before:
            os.kill(os.getpid(), number)
        return result

    monkeypatch.setattr(place, name, call)
    return calls


# (phase, where, function, its at-th call, steps of 8 that are left to the next process)
PHASES = [
    ("composed", pipeline, "prepare", 1, 8),
    ("set-up", training, "_trainee", 1, 8),
    ("step", train, "train_step", 2, 6),
    ("check", train, "top1", 1, 4),
    ("evaluation", training, "_final_score", 1, 0),
    ("record", Store, "write", 1, 0),
]


@pytest.mark.parametrize(("where", "name", "at", "left"), [phase[1:] for phase in PHASES], ids=[phase[0] for phase in PHASES])
def test_stopped_in_each_phase(sweep, calm, tmp_path, monkeypatch, capsys, where, name, at, left):
    number, code = (signal.SIGINT, 130) if name == "top1" else (signal.SIGTERM, 143)
    with monkeypatch.context() as patch:
        signalled(patch, where, name, number, at)
        if name == "_final_score":  # peek10 has the score by then: have it look again
            patch.setattr("karst_bench.engine.outcome.Fit.check", lambda *_: None)
        steps = signalled(patch, train, "train_step", at=0) if name != "train_step" else []
        assert sweep() == code
        begun = len(steps)
    assert "stopped; the same command continues" in capsys.readouterr().err
    assert len(records(tmp_path / "results")) == (name == "write"), "no further cell"
    assert not Leases(tmp_path / "results").running() and stopping.asked() is None
    steps = signalled(monkeypatch, train, "train_step", at=0)
    assert sweep() == 0 and records(tmp_path / "results") == records(calm)
    assert len(steps) == 8 + left and (begun or 2) + left == 8 + 2 * (name in ("prepare", "_trainee"))
    assert not list((tmp_path / "results" / "checkpoints").glob("*"))
    for path in (calm / "adapters" / "mini").iterdir():
        ours, theirs = (load_file(folder / path.name) for folder in (tmp_path / "results" / "adapters" / "mini", path.parent))
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_stopped_sweep_of_hydras_begins_no_further_cell(words, tmp_path, monkeypatch):
    signalled(monkeypatch, Store, "write")
    assert main(words()) == 143 and len(records(tmp_path / "results")) == 1


def test_a_signal_that_something_swallowed_is_answered_at_the_next_safe_point(sweep, tmp_path, monkeypatch):
    def swallow(*_):
        with contextlib.suppress(BaseException):  # as a library's own cleaning up may
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(pipeline, "remember", swallow)
    assert sweep() == 143 and records(tmp_path / "results") == {}


def test_a_checkpoint_that_cannot_be_written_does_not_replace_the_stop(sweep, tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise DiskError("no space")

    monkeypatch.setattr(Store, "save_checkpoint", full)
    signalled(monkeypatch, train, "train_step", at=2)
    assert sweep() == 143
    said = capsys.readouterr().err
    assert said.count("no checkpoint") == 1 and not list((tmp_path / "results").rglob("*.json"))


def test_a_wish_that_comes_when_all_is_done_stops_nothing(composed, tmp_path, monkeypatch):
    signalled(monkeypatch, Store, "write")
    paths = dataclasses.replace(composed.paths, results=tmp_path)
    assert exit_code(lambda: pipeline.run(composed.replace(paths=paths)) and 0, debug=False) == 0
    assert len(records(tmp_path)) == 1 and stopping.asked() is None


def test_a_second_ctrl_c_ends_at_once():
    def impatient():
        with stopping.deferred():
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
            pytest.fail("went on")

    assert exit_code(impatient, debug=False) == 130 and stopping.asked() is None


BLOCKED = """
import os, signal, sys, threading
from karst_bench import stopping
from karst_bench.cli.outcome import exit_code, leave
never = threading.Event()
def blocked():  # as a library that waits for a process that is gone, and would wait again at the interpreter's end
    threading.Thread(target=never.wait).start()
    threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
    with stopping.deferred():
        while stopping.asked() is None:
            never.wait(0.01)
        stopping._WISH.at_s -= 2 * stopping.DOUBLED_S
        threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
        never.wait()
leave(exit_code(blocked, debug=False))
"""


def test_a_second_sigterm_ends_what_never_comes_to_a_safe_point():
    ended = subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, text=True, timeout=100)
    assert ended.returncode == 143
    said = [line for line in ended.stderr.splitlines() if line]
    assert len(said) == 2 and said[0].startswith("stopping at") and said[1].startswith("stopped; not at a safe point")


def test_a_sigterm_that_comes_double_is_one_wish():
    def patient():
        with stopping.deferred():
            for _ in range(3):
                os.kill(os.getpid(), signal.SIGTERM)
            stopping.safe_point()

    assert exit_code(patient, debug=False) == 143 and not stopping.hurried()


def test_a_wish_that_came_too_late_is_handed_to_the_program_around():
    heard = []
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    try:
        with stopping.listening(), stopping.deferred():
            os.kill(os.getpid(), signal.SIGTERM)
        assert heard == [signal.SIGTERM] and stopping.asked() is None
    finally:
        signal.signal(signal.SIGTERM, before)


def test_cells_of_other_workers_are_visited_again_and_what_remains_is_listed(words, calm, tmp_path, monkeypatch, capsys):
    ids = sorted(records(calm))
    theirs = Leases(tmp_path / "results").acquire(ids[0])
    assert main(words()) == 3
    said = capsys.readouterr().err
    assert "1 runs are not done" in said and "seed=" in said.splitlines()[-1]
    assert sorted(records(tmp_path / "results")) == ids[1:]

    real = pipeline.write_record
    monkeypatch.setattr(pipeline, "write_record", lambda *a: (theirs.release(), real(*a))[1])
    (tmp_path / "results" / "runs" / "mini" / f"{ids[1]}.json").unlink()
    assert main(words()) == 0, "the other let go meanwhile"
    assert sorted(records(tmp_path / "results")) == ids


def test_a_stopped_forced_sweep_goes_on_and_the_old_records_stand_meanwhile(words, calm, tmp_path, monkeypatch, capsys):
    shutil.copytree(calm, tmp_path / "results")
    old = {path: path.read_bytes() for path in (tmp_path / "results" / "runs" / "mini").iterdir()}
    with monkeypatch.context() as patch:
        signalled(patch, train, "train_step", at=8 + 3)  # within the second cell
        assert main(words("force=true")) == 143
    assert [path.read_bytes() == before for path, before in old.items()].count(True) == 1
    assert records(tmp_path / "results") == records(calm)
    steps = signalled(monkeypatch, train, "train_step", at=0)
    assert main(words("force=true")) == 0 and len(steps) == 5, "neither the finished cell nor the finished steps again"
    assert "1 done since" in capsys.readouterr().err
    assert not any(path.read_bytes() == before for path, before in old.items()) and records(tmp_path / "results") == records(calm)
    assert len(list((tmp_path / "results" / "superseded" / "mini").glob("*.json"))) == 2


@pytest.mark.parametrize("damage", ["low bit", "garbage", "another's"])
def test_a_damaged_checkpoint_is_told_in_a_line_and_the_run_starts_anew(sweep, calm, tmp_path, monkeypatch, capsys, damage):
    with monkeypatch.context() as patch:
        signalled(patch, train, "train_step", at=6)
        assert sweep() == 143
    (path,) = (tmp_path / "results" / "checkpoints").iterdir()
    whole = path.read_bytes()
    if damage == "low bit":
        path.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    elif damage == "garbage":
        path.write_bytes(b"\0" * 100)
    else:
        Store(tmp_path / "results", "mini").save_checkpoint(path.stem, {"x": torch.ones(2)}, {"at": {"epochs": 2}})
    capsys.readouterr()
    assert sweep() == 0
    said = capsys.readouterr().err
    assert said.count("done anew") == 1 and "Traceback" not in said
    assert records(tmp_path / "results") == records(calm)


def test_a_lost_lease_writes_nothing_and_is_passed_over(sweep, calm, tmp_path, monkeypatch):
    """As if the machine had slept during the first cell, and another had taken it and runs it."""
    real, leases = training.train_and_score, []

    def asleep(prepared, *arguments):
        if not leases:
            for file in (tmp_path / "results" / "leases").iterdir():
                file.unlink()
            leases.append(Leases(tmp_path / "results").acquire(prepared.id))
        return real(prepared, *arguments)

    monkeypatch.setattr(pipeline, "train_and_score", asleep)
    assert sweep() == 3
    assert not list((tmp_path / "results" / "runs").rglob("*.json")) and not list((tmp_path / "results").rglob("*.safetensors"))
    leases[0].release()
    assert sweep() == 0 and records(tmp_path / "results") == records(calm)


def test_a_stopped_search_keeps_what_it_has_seen(mini_cache, tmp_path, monkeypatch):
    """The signal comes in the middle of a candidate's evaluation, not between two."""
    settings = settings_of([
        *TINY, "method=glora", "protocol=last", f"paths.cache={mini_cache}", f"paths.results={tmp_path}/results",
        "method.stages.supernet.epochs=1", "method.stages.evolve.population=2", "method.stages.evolve.parents=2",
        "method.stages.evolve.mutants=1", "method.stages.evolve.crossed=1", "method.stages.evolve.generations=1",
    ])  # fmt: skip
    with monkeypatch.context() as patch:
        signalled(patch, searching, "top1", at=2)
        assert exit_code(lambda: pipeline.run(settings), debug=False) == 143
    (path,) = (tmp_path / "results" / "checkpoints").glob("*.evolve.safetensors")
    looks = signalled(monkeypatch, searching, "top1", at=0)
    pipeline.run(settings)
    assert len(looks) == 3 and not path.exists()


def test_checkpoints_are_as_frequent_as_asked(sweep, monkeypatch):
    saved = signalled(monkeypatch, watchers.Checkpoints, "save", at=0)
    assert sweep(checkpoint_s=0.0) == 0 and len(saved) == 2 * 2


def test_where_nothing_defers_it_a_wish_ends_at_once():
    """Composing and importing have no safe points, and nothing to save."""
    reached = False
    with pytest.raises(KeyboardInterrupt), stopping.listening():
        signal.raise_signal(signal.SIGINT)
        reached = True
    assert not reached
