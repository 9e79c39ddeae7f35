"""Plans: which cells of a sweep are done, and what is said of the others."""

import random
import shlex

import pytest

from karst_bench.cli import hydra_app
from karst_bench.config.compose import settings_of
from karst_bench.records import identity
from karst_bench.records.facts import (
    Counts,
    Curves,
    DataFacts,
    Metrics,
    Provenance,
    RunFailure,
    Seconds,
    Speed,
    WeightsFacts,
)
from karst_bench.records.lease import Leases
from karst_bench.records.record import FailedRun, RunRecord
from karst_bench.records.store import Store
from karst_bench.run.status import listing, matrix, sweep_cells, totals


@pytest.fixture
def words(tmp_path):
    return ["sweep=demo", "suite=mini", f"paths.results={tmp_path}", "seed=0,1"]


def finished(cell, seconds=10.0, **backbone):
    """The record that the pipeline would write: what the plan leaves to the backbone filled in, paths left out."""
    backbone = {"input_size": 32, "mean": [0.5] * 3, "std": [0.5] * 3} | dict(cell.config["backbone"]) | backbone
    config = dict(cell.config) | {"backbone": backbone, "paths": {}}
    return RunRecord(
        id=identity.identify(config, weights_sha256="w" * 64, list_sha256="l" * 64, encoding="generated"),
        config=config,
        data=DataFacts(list_sha256="l" * 64, encoding="generated"),
        weights=WeightsFacts(name="vit_mini", sha256="w" * 64),
        provenance=Provenance(),
        metrics=Metrics(test_top1_last_pct=50.0),
        curves=Curves(),
        counts=Counts(trainable_params=0),
        seconds=Seconds(total_s=seconds),
        speed=Speed(),
    )


def failed(cell):
    run = finished(cell)
    header = {key: getattr(run, key) for key in ("id", "config", "data", "weights", "provenance")}
    return FailedRun(**header, error=RunFailure(type="E"))


def test_a_plan_says_what_tuned_left_open(tmp_path):
    words = ["method=lora,bitfit", "dataset=mini/digits,mini/count", "tuned=paper", f"paths.results={tmp_path}"]
    said = listing(sweep_cells(words)).splitlines()
    assert sum("no table for method=bitfit" in line for line in said) == 1
    assert sum("no values for mini/digits" in line for line in said) == 1


def test_states_times_and_gaps(words, tmp_path):
    store = Store(tmp_path, "mini")
    planned = sweep_cells(words)
    assert [cell.state for cell in planned] == ["missing"] * 4
    assert "time left unknown" in totals(planned)
    store.write(finished(planned[0], seconds=3600.0))
    store.fail(failed(planned[1]))
    with Leases(tmp_path).acquire("f" * 16, note=identity.cell_key(planned[2].config)):
        now = sweep_cells(words)
        assert [cell.state for cell in now] == ["done", "failed", "running", "missing"]
        table = matrix(words, now)
    assert now[0].value == 50.0 and now[1].seconds == 3600.0
    assert "about 3.0 h" in totals(now)
    assert "50.0 %" in listing(now) and "missing" in listing(now)
    assert "1/2 1f" in table and "0/2 1r" in table
    assert f"karst-bench run -m sweep=demo suite=mini paths.results={tmp_path} seed=0,1 method=karst\n" in table


def test_how_long_it_takes_on_several_workers(words, tmp_path):
    planned = sweep_cells(words)
    Store(tmp_path, "mini").write(finished(planned[0], seconds=3600.0))
    assert "On 2 workers: about 2.0 h, the longest runs first; 2.0 h in this order" in listing(sweep_cells(words), workers=2)
    assert "workers" not in listing(planned, workers=2), "nothing is known of such runs"


def test_logs_of_what_runs_and_what_failed_are_found(words, tmp_path):
    planned = sweep_cells(words)
    assert "Logs:" not in matrix(words, planned)
    Store(tmp_path, "mini").fail(failed(planned[1]))
    (tmp_path / "logs" / "jobs").mkdir(parents=True)
    with Leases(tmp_path).acquire("f" * 16, note=identity.cell_key(planned[2].config)):
        said = matrix(words, sweep_cells(words))
    assert f"failed  {tmp_path}/logs/mini/{failed(planned[1]).id}.log  " in said
    assert f"running {tmp_path}/logs/mini/{'f' * 16}.log  " in said and f"jobs    {tmp_path}/logs/jobs" in said


def test_another_input_size_is_another_cell(words, tmp_path):
    planned = sweep_cells(words)
    Store(tmp_path, "mini").write(finished(planned[0], input_size=64))
    assert sweep_cells(words)[0].state == "missing"


@pytest.mark.parametrize("tuned", ["none", "ours", "none,ours"])
def test_assembled_configurations_are_the_composed_ones(tuned):
    """The short cuts over the axes and for searched values give what composing every cell would."""
    planned = sweep_cells(
        ["method=karst,lora,linear,full,fact_tk", "dataset=mini/digits,mini/fs_glyphs,vtab/svhn", "seed=0,1", f"tuned={tuned}"]
    )
    for cell in random.Random(0).sample(planned, 6):
        assert cell.config == settings_of(list(cell.overrides)).as_config()


def test_a_key_swept_with_plus_signs_differs_from_cell_to_cell():
    cells = sweep_cells(["method=lora", "dataset=mini/digits", "++method.r=1,2", "backbone.model_args={depth:1},{depth:2}"])
    assert [(cell.config["method"]["r"], cell.config["backbone"]["model_args"]["depth"]) for cell in cells] == [
        (1, 1), (1, 2), (2, 1), (2, 2)]  # fmt: skip


def test_a_shell_reads_the_commands_as_they_were_typed(tmp_path):
    swept = ["method=lora", "dataset=mini/digits", "backbone.model_args={depth: 1, num_heads: 3},{depth: 2}"]
    kept = ["backbone.tag='one (block)'", f"paths.results='{tmp_path}/my results'"]
    cells = sweep_cells([*swept, *kept])
    assert [list(shlex.split(line)[2:]) for line in listing(cells).splitlines()[:2]] == [list(cell.overrides) for cell in cells]
    gaps = [shlex.split(line) for line in matrix([*swept, *kept], cells).partition("Fill the gaps:\n")[2].splitlines()]
    assert [gap[:3] for gap in gaps] == [["karst-bench", "run", "-m"]] * 2
    assert [[planned.config for planned in sweep_cells(gap[3:])] for gap in gaps] == [[cell.config] for cell in cells]


def test_a_finished_sweep_has_no_gaps(words, tmp_path):
    for cell in sweep_cells(words):
        Store(tmp_path, "mini").write(finished(cell))
    done = sweep_cells(words)
    assert totals(done) == "4 cells: 4 done, 0 missing" and "gaps" not in matrix(words, done)


@pytest.mark.parametrize("sweep", ["table1", "figure2"])
def test_the_plan_of_the_embedded_suite_finds_the_committed_runs(sweep):
    """What tables and figures print is what the sweep would run: nothing of it runs again."""
    planned = sweep_cells([f"sweep={sweep}", "suite=mini", "method=karst"], "reference")
    assert {cell.state for cell in planned} == {"done"}


def test_a_dry_run_lists_commands_that_run(words, capsys):
    assert hydra_app.main([*words, "dry_run=true"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if "method=" in line]) == 4
    assert not any("dry_run=" in line for line in lines)
