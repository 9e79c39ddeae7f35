"""Sweeps on clusters, without one: what is asked of it, and what becomes of what it says. tests/cluster has real ones."""

import os
from dataclasses import dataclass, field

import pytest
from hydra.core.config_store import ConfigStore

from karst_bench import compat
from karst_bench.cli.clusters import LAUNCHERS, is_cluster, job, launching
from karst_bench.cli.clusters.job import Outcome, RunJob
from karst_bench.cli.plans import for_workers
from karst_bench.config.compose import settings_of
from karst_bench.errors import BusyError, UserError
from karst_bench.records.identity import cell_key
from karst_bench.records.lease import Leases
from karst_bench.run.status import SweepCell

DONE, DEAD = Outcome("done", "test top-1 71.2 %"), Outcome("dead", "no word")


@dataclass
class Told:
    """A cluster whose jobs end as a list says: by run, what its first, second, ... job comes to."""

    outcomes: dict[str, list[Outcome]]
    at_once: int | None = None
    left_behind: str = ""
    asked: list[str] = field(default_factory=list)
    most: int = 0

    def submit(self, work):
        assert all(isinstance(one, RunJob) for one in work)
        self.asked += [one.words[0] for one in work]
        self.most = max(self.most, len(work))
        return [one.words[0] for one in work]

    def outcome(self, handle):
        return self.outcomes[handle].pop(0)

    def pause_s(self, handles):
        return 0.0


def cells(**seconds):
    config = {"paths": {"results": "/r"}, "method": {"name": "m"}, "dataset": {"name": "d"}}
    return [SweepCell((name,), config, "missing", length, None) for name, length in seconds.items()]


def run(cluster, **seconds):
    return launching._Launch(cluster, {"a", "b", "c"}).run(launching._longest_first(cells(**seconds)))


def test_the_dead_are_submitted_again_and_the_busy_last():
    cluster = Told({"a": [DEAD, DEAD, DONE], "b": [Outcome("busy", "n2 has it"), DONE], "c": [DONE]})
    ended = run(cluster, a=1.0, b=None, c=9.0)
    assert {outcome.kind for outcome in ended.values()} == {"done"}
    assert cluster.asked == ["c", "b", "a", "a", "a", "b"]  # the longest first, b as long as the others on average


def test_what_keeps_dying_is_told_and_the_others_are_done():
    cluster = Told({"a": [DEAD] * launching.ATTEMPTS, "b": [DONE]}, at_once=1)
    with pytest.raises(RuntimeError, match=r"1 of 2 runs are not done.*\n  dead: a: no word"):
        launching._end(run(cluster, a=2.0, b=1.0))
    assert cluster.most == 1 and cluster.asked.count("a") == launching.ATTEMPTS


@pytest.mark.parametrize(("kind", "raised"), [("busy", BusyError), ("bad_input", UserError), ("limit", RuntimeError)])
def test_the_exit_code_is_that_of_a_run_here(kind, raised):
    with pytest.raises(raised) as error:
        launching._end({("a",): Outcome(kind, "so it is"), ("b",): DONE})
    assert type(error.value) is raised


@pytest.mark.parametrize("name", LAUNCHERS)
def test_launchers_compose_and_take_words(name, tmp_path):
    key, value = ("ray.remote.num_gpus", 0.25) if name == "ray" else ("timeout_min", 30)
    words = [f"hydra/launcher={name}", f"hydra.launcher.{key}={value}", "seed=0,1", f"paths.results={tmp_path}"]
    found = launching._parameters(words)
    assert is_cluster(words) and not is_cluster(["hydra/launcher=joblib"])
    assert (found["ray"]["remote"]["num_gpus"] if name == "ray" else found["timeout_min"]) == value
    assert name == "ray" or found["submitit_folder"] == f"{tmp_path}/logs/jobs/%j"
    with pytest.raises(UserError, match="timeout_minutes"):
        launching._parameters([f"hydra/launcher={name}", "hydra.launcher.timeout_minutes=3"])


def test_options_of_conf_win_over_a_plugins():
    store = ConfigStore.instance()
    store.store(group="hydra/launcher", name="ray", node={"another": 1})
    compat.prefer_own_options("hydra/launcher", ["ray", "no_such"])
    assert "ray" in launching._parameters(["hydra/launcher=ray"])


def test_a_job_takes_over_a_run_whose_holder_is_silent(tmp_path, monkeypatch):
    """The holder is on another machine, where nobody can look: it lives as long as it beats."""
    settings = settings_of([f"paths.results={tmp_path}"]).replace(lease_s=1.0)
    leases, key = Leases(tmp_path, 1.0), cell_key(settings.as_config())
    with leases.acquire("f" * 16, note=key):
        monkeypatch.setattr("karst_bench.records.lease._machine", lambda: "another")
        assert not job._is_let_go(settings)
    monkeypatch.undo()
    silent = leases.folder / f"{'f' * 16}.{'0' * 16}.own"
    silent.write_text(f"elsewhere 1 1 {key}\n")
    assert leases.last_beat(key) is not None and job._is_let_go(settings) and not silent.exists()


def test_a_job_says_how_it_ended(tmp_path, monkeypatch):
    monkeypatch.setattr("karst_bench.run.pipeline.run", lambda settings: 1 / 0)
    monkeypatch.setattr("karst_bench.cli.clusters.job.stopping.keep_listening", lambda more: {})
    here = os.getcwd()  # noqa: PTH109
    try:
        assert RunJob(("seed=1",), str(tmp_path))().kind == "failed"
        assert RunJob(("seed=x",), str(tmp_path))().kind == "bad_input"
    finally:
        os.chdir(here)


def test_workers_is_a_number():
    assert for_workers(["seed=0", "workers=8"]) == (["seed=0"], 8) and for_workers([]) == ([], 1)
    with pytest.raises(UserError, match="workers=0 must be"):
        for_workers(["workers=0"])
