"""A disk that fills, at every write of a run: each has its outcome, and none is a traceback or a lost record."""

import dataclasses
import errno
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from karst_bench import files
from karst_bench.cli.outcome import exit_code
from karst_bench.config.compose import settings_of
from karst_bench.records import record as schema
from karst_bench.run import disk_room, logs, pipeline, training

TINY = ["dataset=mini/digits", "backbone.weights=none", "recipe.epochs=2", "recipe.batch=500", "threads=1", "checkpoint_s=0",
        "backbone.model_args={img_size:32,patch_size:8,embed_dim:32,depth:1,num_heads:2}"]  # fmt: skip
SEARCHED = ["method=glora", "method.stages.supernet.epochs=1", "method.stages.evolve.population=2",
            "method.stages.evolve.parents=1", "method.stages.evolve.mutants=1", "method.stages.evolve.crossed=1",
            "method.stages.evolve.generations=1"]  # fmt: skip


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def composed(cache):
    return {name: settings_of([*TINY, f"paths.cache={cache}", *words])
            for name, words in {"plain": ["method=bitfit"], "searched": SEARCHED}.items()}  # fmt: skip


@pytest.fixture
def run(composed, tmp_path):
    """run(): a run into a folder of the test's own; gives its exit code."""

    def act(name="plain", **changes):
        paths = dataclasses.replace(composed[name].paths, results=tmp_path / "results")
        settings = composed[name].replace(paths=paths, save_predictions=True, **changes)

        def told() -> int:
            try:
                return pipeline.run(settings) and 0
            except Exception as error:
                logging.getLogger(__name__).error("%s: %s", type(error).__name__, error)
                raise

        return exit_code(told, debug=False)

    return act


def full(monkeypatch, what: str, times: int = 10**6) -> list[Path]:
    """The first writes of files whose path holds these words fail, half done; gives the paths that were tried."""
    real, tried = files._write_all, []

    def write(path: Path, data: bytes) -> None:
        if what in path.as_posix():
            tried.append(path)
            if len(tried) <= times:
                path.write_bytes(data[: len(data) // 2])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(path, data)

    monkeypatch.setattr(files, "_write_all", write)
    return tried


def record(tmp_path: Path) -> schema.RunRecord:
    (path,) = (tmp_path / "results" / "runs" / "mini").glob("*.json")
    return schema.load(path)


# what cannot be written -> (exit code, what is said, what the record notes or None without one)
OUTCOMES = {
    ".probe.": (2, "No space left", None),
    "/leases/": (2, "No space left", None),
    ".own.": (2, "No space left", None),
    "/cache/runs/": (0, "", ""),
    "/checkpoints/": (0, "no checkpoint", ""),
    "/adapters/": (0, "the adapter could not be written", "adapter"),
    "/predictions/": (0, "the predictions could not be written", "predictions"),
    "/runs/mini/.": (2, "No space left", None),
}


@pytest.mark.parametrize("what", OUTCOMES)
def test_each_write_has_its_outcome(run, tmp_path, monkeypatch, caplog, what):
    code, said, noted = OUTCOMES[what]
    with monkeypatch.context() as patch:
        tried = full(patch, what)
        assert run() == code and (tried or "cache" in what)
    told = caplog.text
    assert not said or told.count(said) == 1
    if noted is None:
        assert not list((tmp_path / "results").rglob("*.json"))
    else:
        assert ("could not be written" in " ".join(record(tmp_path).notes)) == bool(noted)
        assert (record(tmp_path).adapter is None) == (noted == "adapter")
        assert (record(tmp_path).predictions is None) == (noted == "predictions")
    assert not list((tmp_path / "results").rglob("*.tmp"))
    assert run() == 0 and record(tmp_path), "with room again, the same command does what is left"


def test_where_only_the_record_finds_no_room_the_adapter_makes_room_for_it(run, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(pipeline.Store, "check_writable", lambda self: None)
    with monkeypatch.context() as patch:
        full(patch, "/runs/mini/.", times=1)
        assert run() == 0
    assert record(tmp_path).adapter is None and "could not be written" in " ".join(record(tmp_path).notes)
    assert not list((tmp_path / "results" / "adapters").rglob("*.safetensors"))


def test_a_record_without_room_leaves_the_checkpoint(run, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(pipeline.Store, "check_writable", lambda self: None)
    with monkeypatch.context() as patch:
        full(patch, "/runs/mini/.")
        assert run() == 2
    assert len(list((tmp_path / "results" / "checkpoints").iterdir())) == 1
    monkeypatch.setattr(training, "fit", checked_resume(training.fit))
    assert run() == 0 and record(tmp_path).adapter


def checked_resume(real):
    def fit(*arguments, state, **named):
        assert state is not None and state["meta"]["at"]["epoch"] == 2, "all that was trained"
        return real(*arguments, state=state, **named)

    return fit


def test_a_stages_product_without_room_lives_as_long_as_the_run(run, tmp_path, monkeypatch, caplog):
    full(monkeypatch, "/artefacts/")
    assert run("searched") == 0
    assert caplog.text.count("is not kept") == 2 and record(tmp_path).artefact is None


def test_a_failure_without_room_does_not_hide_what_failed(run, monkeypatch, caplog):
    def fails(*_):
        raise ZeroDivisionError("the reason")

    monkeypatch.setattr(pipeline, "train_and_score", fails)
    full(monkeypatch, "/failed/")
    assert run() == 1
    told = caplog.text
    assert "ZeroDivisionError: the reason" in told and "not on record" in told


def test_a_log_file_without_room_ends_with_one_line(run, tmp_path, monkeypatch, caplog):
    def flush(self):
        if isinstance(self, logs._RunFile):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(logs._RunFile, "flush", flush)
    assert run() == 0 and record(tmp_path)
    told = caplog.text
    assert told.count("ends here") == 1


def test_too_little_room_is_said_before_the_first_step(run, monkeypatch, caplog):
    monkeypatch.setattr(disk_room.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    monkeypatch.setattr(training, "fit", lambda *_, **__: (_ for _ in ()).throw(ZeroDivisionError("first step")))
    assert run() == 1
    told = caplog.text
    assert told.index("this run writes up to") < told.index("first step") and "checkpoint" in told and "adapter" in told


@pytest.mark.slow
def test_a_file_system_that_is_full_after_so_many_pages():
    """A real one, which needs a namespace in which to mount it (python tests/run/small_disk.py prints what became of each run)."""
    apart = ["unshare", "--user", "--map-root-user", "--mount"]
    if shutil.which("unshare") is None or subprocess.run([*apart, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no namespaces for users here")
    command = [*apart, sys.executable, str(Path(__file__).with_name("small_disk.py"))]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0 and "exit code 2, no record" in ended.stdout, ended.stdout + ended.stderr[-2000:]
