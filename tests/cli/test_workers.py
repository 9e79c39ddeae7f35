"""A launcher and its workers: one wish to stop, no worker left behind, no failure lost."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from karst_bench import stopping
from karst_bench.cli import hydra_app, workers
from karst_bench.cli.outcome import exit_code
from karst_bench.errors import UserError
from karst_bench.records.store import Store

ROOT = Path(__file__).resolve().parents[2]
TINY = ["dataset=mini/digits", "backbone.weights=none", "recipe.epochs=400", "recipe.batch=50", "threads=1", "device=cpu",
        "checkpoint_s=1000", "backbone.model_args={img_size:32,patch_size:8,embed_dim:32,depth:1,num_heads:2}"]  # fmt: skip


@pytest.fixture
def launch():
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(workers.VARIABLE, raising=False)
        with workers.launching() as launch:
            yield launch


def child(act) -> int:
    """Forks a process that does this and ends by itself; gives its number."""
    pid = os.fork()
    if not pid:
        code = 70
        try:
            code = act() or 0
        finally:
            os._exit(code)
    return pid


def code_of(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def running_in_session(session: int) -> list[str]:
    """The commands of its processes that have not ended."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            name, _, rest = stat.read_text().rpartition(")")
            state, _, _, its_session = rest.split()[:4]
            found += [name] if int(its_session) == session and state != "Z" else []
    return found


def until(there) -> None:
    while not there():
        time.sleep(0.01)


def wait_for_a_safe_point() -> None:
    until(lambda: stopping.asked() is not None)
    stopping.safe_point()


def test_a_launcher_is_no_worker_and_nobody_elses_variable_makes_one(monkeypatch, launch):
    assert workers.this_worker() is None
    monkeypatch.setenv(workers.VARIABLE, "")
    assert workers.this_worker() is None


def test_the_launchers_wish_ends_a_workers_run_but_not_the_worker(launch):
    def act() -> int:
        worker = workers.this_worker()
        worker.work(wait_for_a_safe_point)
        worker.work(lambda: os._exit(71))  # it begins no further run
        return 5

    launch.stop.write_text(str(int(signal.SIGINT)))
    assert code_of(child(act)) == 5
    launch.stop.unlink()


def test_a_workers_wish_is_the_launchers():
    def act() -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        return 5

    def launches() -> None:
        with workers.launching():
            worker = child(lambda: workers.this_worker().work(act))
            assert code_of(worker) == 0

    assert exit_code(launches, debug=False) == 143


def test_a_worker_ends_with_its_launcher():
    """The launcher is killed: the run comes to its safe point, then the worker ends; nobody tells it."""
    hears, says = os.pipe()

    def run() -> None:
        os.write(says, b"r")
        wait_for_a_safe_point()

    def worker() -> None:
        workers.this_worker().work(run)
        time.sleep(60)
        os.write(says, b"still here")

    def launcher() -> int:
        with workers.launching():
            child(worker)
            time.sleep(1000)
        return 0

    pid = child(launcher)
    assert os.read(hears, 1) == b"r"
    os.kill(pid, signal.SIGKILL)
    assert code_of(pid) == -signal.SIGKILL
    os.close(says)
    assert os.read(hears, 1) == b"", "the worker, the last that could write, ends when its run stopped"
    os.close(hears)


def test_what_runs_raised_reaches_the_launcher(launch):
    def act() -> None:
        launch.failed(UserError("a bad word"))
        launch.failed(ZeroDivisionError())

    assert code_of(child(act)) == 0
    found = {type(error): str(error) for error in launch.failures()}
    assert found == {UserError: "a bad word", RuntimeError: "ZeroDivisionError"}


def test_a_run_that_failed_in_a_worker_fails_the_sweep(monkeypatch, tmp_path):
    launches, real = [], workers.launching

    @contextmanager
    def watched():
        with real() as launch:
            launches.append(launch)
            yield launch

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(workers, "launching", watched)
    monkeypatch.setattr(hydra_app.hydra, "main", lambda **_: lambda _: lambda: launches[0].failed(UserError("a bad word")))
    assert hydra_app.main(["-m", "seed=0,1", "hydra/launcher=joblib", f"paths.results={tmp_path}"]) == 2


def test_a_pool_that_the_signal_broke_is_a_stop_and_no_failure():
    def breaks() -> None:
        with workers.launching():
            os.kill(os.getpid(), signal.SIGTERM)
            raise ChildProcessError("a worker was ended by a signal")

    assert exit_code(breaks, debug=False) == 143 and workers.VARIABLE not in os.environ


@pytest.mark.slow
@pytest.mark.parametrize("whole_group", [False, True])
def test_a_stopped_joblib_sweep_leaves_checkpoints_and_no_process(tmp_path, whole_group):
    """Of two workers that train for minutes, each writes its checkpoint; nobody of the session is left."""
    words = ["-m", "method=lora,bitfit", "seed=0,1", *TINY, f"paths.results={tmp_path}/results", f"paths.cache={tmp_path}/cache",
             "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]  # fmt: skip
    said, command = tmp_path / "said", [sys.executable, str(ROOT / "run.py"), *words]
    with said.open("w") as file:
        launcher = subprocess.Popen(command, cwd=tmp_path, stderr=file, start_new_session=True)
    until(lambda: said.read_text().count("epoch") > 1 or launcher.poll() is not None)
    (os.killpg if whole_group else os.kill)(launcher.pid, signal.SIGTERM)
    code = launcher.wait(300)
    text = said.read_text()[-3000:]
    assert code == 143 and "stopped; the same command continues" in text and "Traceback" not in text, text
    assert len(list((tmp_path / "results" / "checkpoints").glob("*.safetensors"))) == 2, text
    assert not list((tmp_path / "results" / "leases").iterdir())
    until(lambda: not running_in_session(launcher.pid))


@pytest.mark.slow
def test_runs_side_by_side_are_what_they_are_alone(tmp_path):
    """Two workers share a cache that none has filled yet; their runs' losses and scores are those of runs one by one."""
    words = [*TINY, "recipe.epochs=2", "method=lora", f"paths.cache={tmp_path / 'cache'}", "save_adapter=false"]

    def found(name, launcher):
        where = [f"paths.results={tmp_path / name}", f"paths.outputs={tmp_path / 'outputs'}"]
        command = [sys.executable, "-m", "karst_bench", "run", "-m", "seed=0,1,2,3", *words, *where, *launcher]
        subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True, capture_output=True, cwd=tmp_path)
        records = Store(tmp_path / name, "mini").records()
        return {record.id: (record.curves.train_loss, record.metrics.test_top1_last_pct) for record in records}

    together = found("together", ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"])
    assert len(together) == 4 and together == found("alone", [])
