"""A finished training is never lost to what is counted, shown, tracked or noted of it: a note of the record says what failed."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from karst_bench.adapt import counts
from karst_bench.cli.hydra_app import main
from karst_bench.config.compose import settings_of
from karst_bench.engine.meter import Meter
from karst_bench.engine.progress import Lines
from karst_bench.records import provenance
from karst_bench.records.store import Store
from karst_bench.report import figures
from karst_bench.report.report import write_report
from karst_bench.run import diagnosing, pipeline, recording, training
from karst_bench.run.counted import CountedOnce, kind_of_model
from karst_bench.run.prepare import prepare
from karst_bench.trackers import client
from karst_bench.trackers.client import Trackers

PLACES = {
    "counts": (counts, "counts", "what methods count could not be had"),
    "saved bytes": (counts, "training_counts", "what training keeps could not be had"),
    "multiply-adds": (counts, "forward_macs", "multiply-adds could not be had"),
    "adapter header": (training, "about_run", "what an adapter says of its run could not be had"),
    "machine": (provenance, "collect", "what code and machine are could not be had"),
    "memory": (Meter, "peak_bytes", "peak memory could not be had"),
    "diagnostics": (diagnosing, "diagnostics_of", "no diagnostics"),
    "predictions": (recording, "_predictions", "the predictions could not be written"),
    "progress": (training, "progress", "the progress of training could not be had"),
    "progress, first": (Lines, "on_start", "the progress of training could not be had"),
    "progress, step": (Lines, "on_step", "the progress of training could not be had"),
    "progress, epoch": (Lines, "on_epoch", "the progress of training could not be had"),
    "progress, last": (Lines, "on_end", "the progress of training could not be had"),
    "adapter": (training, "adapter_parts", "the adapter could not be had"),
    "adapter file": (Store, "save_adapter", "the adapter could not be written"),
    "line at the end": (pipeline, "result_line", ""),
}


def planted(*_: object, **__: object) -> None:
    raise RuntimeError("planted")


class Broken:
    """A tracker that fails in one of its calls."""

    kind = "broken"

    def __init__(self, call: str) -> None:
        for name in ("start", "log", "finish"):
            setattr(self, name, planted if name == call else lambda *_: None)


@pytest.fixture
def finished(mini_cache: Path, one_block: list[str], tmp_path: Path, monkeypatch) -> Callable[[], dict]:
    """Runs lora on digits, which must end with 0; what its one record says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(training, "COUNTED", CountedOnce())  # an earlier run's counts would not be counted again

    def run() -> dict:
        words = ["method=lora", "dataset=mini/digits", "recipe.epochs=1", "recipe.batch=500", "threads=1", *one_block]
        words += ["save_predictions=true", "diagnostics=true", f"paths.results={tmp_path}/results", f"paths.cache={mini_cache}"]
        assert main(words) == 0
        (path,) = (tmp_path / "results" / "runs").rglob("*.json")
        return json.loads(path.read_text())

    return run


BESIDE = [place for place in PLACES if not place.startswith(("adapter", "progress, "))] + ["adapter header"]


def is_whole(record: dict, tmp_path: Path, places: list[str]) -> None:
    """Metrics and counts are there, each place has its note, and no run failed."""
    notes = record.get("notes", [])
    assert record["metrics"]["test_top1_last_pct"] > 0 and record["counts"]["trainable_params"] > 0
    for said in (PLACES[place][2] for place in places):
        assert not said or [note for note in notes if note.startswith(said) and "RuntimeError" in note], (said, notes)
    if {"adapter", "adapter file"} & set(places):
        assert "adapter" not in record
    else:
        assert (tmp_path / "results" / record["adapter"]).stat().st_size > 0
    assert not list((tmp_path / "results").rglob("failed/*"))


def test_everything_beside_the_result_may_fail_at_once(finished: Callable[[], dict], tmp_path: Path, monkeypatch) -> None:
    """And a report of it is whole without its figures."""
    for owner, name, _ in (PLACES[place] for place in BESIDE):
        monkeypatch.setattr(owner, name, planted)
    monkeypatch.setattr(client, "build_trackers", lambda _: Trackers([Broken("log")]))
    record = finished()
    is_whole(record, tmp_path, BESIDE)
    assert "tracking by broken failed: RuntimeError: planted" in record["notes"]
    monkeypatch.setattr(figures, "write_figures", planted)
    report = write_report("mini", {"own": tmp_path / "results" / "runs" / "mini"}, tmp_path / "report" / "mini")
    assert report.runs == 1 and report.tables and not report.figures
    assert "the figures could not be drawn: RuntimeError: planted" in (tmp_path / "report" / "mini" / "left_out.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_a_failure_beside_the_result_is_a_note(place: str, finished: Callable[[], dict], tmp_path: Path, monkeypatch) -> None:
    owner, name, _ = PLACES[place]
    monkeypatch.setattr(owner, name, planted)
    is_whole(finished(), tmp_path, [place])


@pytest.mark.slow
@pytest.mark.parametrize("call", ["start", "log", "finish"])
def test_a_broken_tracker_is_a_note(call: str, finished: Callable[[], dict], caplog, monkeypatch) -> None:
    monkeypatch.setattr(client, "build_trackers", lambda _: Trackers([Broken(call)]))
    record = finished()
    said = "tracking by broken failed: RuntimeError: planted"
    assert said in caplog.text and (call == "finish" or said in record["notes"])


def test_runs_of_one_model_are_counted_once(mini_cache: Path, one_block: list[str]) -> None:
    """Seeds, rates and tasks of as many classes share their counts; a model that its images or its steps decide counts anew."""
    def prepared(*words: str):
        return prepare(settings_of(["dataset=mini/digits", "method=lora", f"paths.cache={mini_cache}", *one_block, *words]))

    first, asked = prepared(), []
    once = CountedOnce()
    for other in (first, prepared("seed=1", "recipe.lr=0.1", "recipe.batch=50")):
        assert once.of(other, "one", lambda: {"a": asked.append(1) or len(asked)}) == {"a": 1}
    assert once.of(first, "two", lambda: {"a": 3}) == {"a": 3}
    changed = ("method.r=3", "method=karst", "recipe.drop_path=0.1", "recompute=true", "extra=rst")
    assert len({kind_of_model(prepared(words)) for words in ("seed=0", *changed)}) == 1 + len(changed)
    assert kind_of_model(prepared("method=spt_lora")) is None
