"""The benchmark programs run, on the smallest ViT, and their page and plot show what they wrote."""

import gc
import json
import os
import sys
import time
import weakref
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import bench_cache, evaluation, gpu, many_runs, measuring, memory, page, plot, session, steps
from benchmarks.__main__ import main
from benchmarks.fake_gpu import cuda_without_a_driver, kept_bytes
from benchmarks.measure import interleaved, saved_bytes, summary
from benchmarks.rows import Case, full
from karst_bench.errors import UserError

MACHINE = {"cpu": "C", "capability": "none", "threads": 1, "torch": "0", "gpu": "none"}
SMALL = Case("vit_tiny_patch16_224", 1, 1)


def test_ratios_are_of_the_same_round() -> None:
    """A machine that slows down by ten in the second round changes no ratio; minima come from the first."""
    seconds = {"base": [1.0, 10.0, 1.0], "twice": [2.0, 20.0, 2.2]}
    table = summary({name: {"cpu_s": values} for name, values in seconds.items()}, "base")
    assert table["twice"] == {"cpu_median_s": 2.2, "cpu_min_s": 2.0, "cpu_ratio_median": 2.0, "cpu_ratio_min": 2.0}


def test_rounds_are_interleaved_after_unmeasured_ones() -> None:
    calls: list[str] = []
    clocks = interleaved({name: lambda name=name: calls.append(name) for name in "ab"}, 2, lambda: calls.append("."), warm=2)
    assert "".join(calls) == "abab." + 2 * "a.b."
    assert all(len(clock["wall_s"]) == 2 for clock in clocks.values())


def test_steps_and_passes_reach_page_and_plot(tmp_path: Path) -> None:
    rows = ["KARST, ours", "KARST, ours, recompute", "KARST, ours, all tokens", "head only"]
    results = {"steps_tiny_b1": steps.measured(SMALL, 1, rows), "evaluation_tiny_b1": evaluation.measured(SMALL, 1)}
    for name, result in results.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({"machine": MACHINE} | result))
    plot.draw(tmp_path)
    page.write(tmp_path)
    assert (tmp_path / "steps.png").stat().st_size > 1000
    text = (tmp_path / "README.md").read_text()
    assert all(f"| {row} " in text for row in ["floor", *rows, "plain", "KARST merged"])
    kept = {row: values["activations_ratio"] for row, values in results["steps_tiny_b1"]["rows"].items()}
    assert kept["head only"] < 0.1 and kept["KARST, ours, recompute"] < kept["KARST, ours"]
    assert kept["floor"] == 1.0 < kept["KARST, ours, all tokens"]


def test_what_decoding_once_is_worth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench_cache.main(images=8, size=32, epochs=1, root=tmp_path / "bench")
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["images"] == 8 and found["decoded_read_s"] > 0 < found["cached_read_s"] and not (tmp_path / "bench").exists()


@pytest.mark.parametrize(
    ("words", "result"),
    [
        (["rows=KARST,ours"], "did you mean KARST, ours"), (["only=stpes"], "did you mean steps"), (["rounds=abc"], "rounds"),
        (["batch=0"], "batch=0"), (["model=vit_foo"], "model=vit_foo"), (["depth=0"], "depth"),
        (["onyl=steps"], "did you mean only"),
    ],
)  # fmt: skip
def test_a_mistyped_word_stops_before_anything_is_measured(words: list[str], result: str, tmp_path: Path, capsys) -> None:
    assert main([*words, f"out={tmp_path}"]) == 2
    assert result in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_results_go_where_they_are_asked_to(tmp_path: Path) -> None:
    """A table of the floor alone is no bar chart, and no error."""
    words = ["only=steps,gpu", "model=vit_tiny_patch16_224", "batch=1", "depth=1", "rounds=1", "rows=floor", f"out={tmp_path}"]
    assert main(words) == 0
    assert {path.name for path in tmp_path.iterdir()} >= {"README.md", "steps_vit_tiny_patch16_224_b1_depth1.json"}


@pytest.mark.skipif(not cuda_without_a_driver(), reason="this torch asks a CUDA driver, or was built for none")
def test_memory_is_counted_without_weights(tmp_path: Path) -> None:
    rows = memory.case_rows(Case("vit_tiny_patch16_224", 8, 3))
    kept = {name: row["kept_ratio"] for name, row in rows.items()}
    assert kept["KARST, recompute=true"] < kept["KARST, as a run on a GPU"] < kept["KARST, nothing made again"] < kept["full"]
    assert rows["full"]["total_bytes"] > 4 * 4 * sum(p.numel() for p in SMALL.net().parameters())  # and two blocks more
    (tmp_path / "memory.json").write_text(json.dumps({"machine": MACHINE, "what": "memory", "rows": rows}))
    page.write(tmp_path)
    assert "| KARST, all tokens " in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize("on_gpu", [False, True])
def test_what_is_only_looked_at_is_not_kept_alive(on_gpu: bool) -> None:
    """A graph whose nodes save their own outputs held the model of each row."""
    if on_gpu and not cuda_without_a_driver():
        pytest.skip("this torch asks a CUDA driver, or was built for none")
    net, x = full(SMALL), torch.zeros(1, 3, 224, 224)
    kept = kept_bytes(net, x) if on_gpu else saved_bytes(net, x, autocast=False)
    assert min(kept.values()) > 0
    values = [weakref.ref(p) for p in net.parameters()]
    del net
    gc.collect()
    assert [value for value in values if value() is not None] == []


def test_rows_outlive_a_part_that_fails(tmp_path: Path, monkeypatch, capsys) -> None:
    """In a GPU's parts and in a session's pieces; the next is measured, a page shows both, and a session goes on from the rows."""
    def breaks(keep) -> dict[str, Any]:
        keep(gpu.about("steps", SMALL, 1) | {"rows": {"first": {"wall_s": 1.0}}})
        raise RuntimeError("planted")

    parts = {name: partial(measuring._kept, tmp_path / f"{name}_unfinished.json", work)
             for name, work in {"gpu_a": breaks, "gpu_c": lambda keep: {"what": "c", "rows": {"whole": {"wall_s": 2.0}}}}.items()}
    monkeypatch.setattr(measuring, "gpu_parts", lambda *_: parts)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(measuring, "machine", lambda: MACHINE)
    monkeypatch.setattr(session, "machine", lambda: MACHINE)
    with pytest.raises(UserError, match=r"not measured: gpu_a \(RuntimeError: planted\)"):
        measuring._measure_gpu(None, partial(measuring.write_result, tmp_path))
    assert {path.name for path in tmp_path.glob("*.json")} == {"gpu_a_unfinished.json", "gpu_c.json"}
    page.write(tmp_path)
    assert "Cut off: the rows that were measured" in (tmp_path / "README.md").read_text()
    seen = []
    again = session.Piece(1, lambda work: seen.append(work.before) or {"what": "a", "rows": {}})
    monkeypatch.setitem(session.PIECES, "gpu_a", again)
    assert session.main(["piece=gpu_a", f"out={tmp_path}"]) == 0
    assert seen == [{"first": {"wall_s": 1.0}}]
    assert {path.name for path in tmp_path.glob("*.json")} == {"gpu_a.json", "gpu_c.json"}


def test_a_piece_that_must_be_whole_is_begun_where_its_time_is_left(tmp_path: Path, monkeypatch, capsys) -> None:
    pieces = {"a": session.Piece(90, dict, takes_s=70), "b": session.Piece(90, dict), "c": session.Piece(90, dict, takes_s=50)}
    monkeypatch.setattr(session, "PIECES", pieces)
    monkeypatch.setattr(session, "_piece", lambda *_: "measured")
    session.measure(out=tmp_path, minutes=1.0, tiny=True)
    said = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[2] == " measured" for line in said] == [False, True, True] and "it takes 70" in said[0]


def test_a_mode_that_is_there_is_not_measured_again(monkeypatch) -> None:
    monkeypatch.setattr(gpu, "in_mode", lambda *_: pytest.fail("again"))
    before = {f"floor, {mode}": {"wall_ratio_median": 1.0} for mode in gpu.MODES}
    assert gpu.measured(SMALL, 1, torch.device("cpu"), only=["floor"], before=before)["rows"] == before


@pytest.mark.parametrize("serves", [True, False])
def test_rows_under_mps_are_of_processes_that_it_served(serves: bool, tmp_path: Path, monkeypatch) -> None:
    """A client that finds no server shares the device without one, and says nothing."""
    daemon, kept = tmp_path / many_runs.MPS, []
    told = f"read word; [ $word = quit ] && touch {tmp_path}/quit; echo {4711 if serves else ''}"
    daemon.write_text(f"#!/bin/sh\n[ $# = 1 ] || {{ {told}; }}\n")
    daemon.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    def sweep(results: Path, processes: int, runs: int, *_: object) -> None:
        for number in range(runs):
            path = results / "runs" / "mini" / f"{number}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            loss = 2.0 if processes == 4 and number == 1 else 1.0  # one that its neighbours changed
            path.write_text(json.dumps({"curves": {"train_loss": [loss, number]}}))
            os.utime(path, (number, number))

    monkeypatch.setattr(many_runs, "sweep", sweep)
    rows = many_runs.measured((1, 2, 4), 2, keep=lambda result: kept.append(len(result["rows"])))["rows"]
    shared = [name for name in rows if name.endswith("MPS")]
    assert shared == ["2 processes, MPS", "4 processes, MPS"][: 2 if serves else 1]
    assert all(("speedup" in rows[name]) == serves and ("failed" in rows[name]) != serves for name in shared)
    assert rows["2 processes"]["as_alone"] == "2 of 2" and rows["4 processes"]["as_alone"] == "1 of 2"
    assert rows["2 processes"]["later_per_hour"] == 3600 and kept == [*range(1, len(rows) + 1)]
    assert (tmp_path / "quit").exists()


@pytest.mark.slow
def test_nothing_outlives_a_piece_that_is_cut_off(tmp_path: Path) -> None:
    """It is asked to end first, as a daemon of its own wants to be told; then whatever it started is ended."""
    other = f"import time, os; open(r'{tmp_path / 'other'}', 'w').write(str(os.getpid())); time.sleep(600)"
    program = f"""
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
child = subprocess.Popen([sys.executable, "-c", {other!r}])
try:
    time.sleep(600)
finally:
    open(r'{tmp_path / 'ended'}', 'w').close()
"""
    assert session.run_for([sys.executable, "-c", program], 20) is None
    assert (tmp_path / "ended").exists()
    with pytest.raises(ProcessLookupError):
        while True:  # until whoever adopted it has buried it
            os.kill(int((tmp_path / "other").read_text()), 0)
            time.sleep(0.1)
    assert session.run_for([sys.executable, "-c", "raise SystemExit(3)"], 60) == 3


@pytest.mark.slow
def test_every_piece_of_a_gpu_session_runs_anywhere(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """In its smallest size, on a CPU; what was measured is not measured again."""
    words = ["tiny=true", f"out={tmp_path}"]
    assert session.main(words) == 0
    said = capfd.readouterr()
    for name in session.PIECES:
        assert (tmp_path / f"{name}.json").exists(), said
        rows = json.loads((tmp_path / f"{name}.json").read_text())["rows"]
        assert rows and not [row for row in rows.values() if "failed" in row], (name, rows)
    assert session.main(words) == 0
    assert capfd.readouterr().out.count("measured before") == len(session.PIECES)
    assert all(f"## {name}" in (tmp_path / "README.md").read_text() for name in session.PIECES)


@pytest.mark.slow
def test_the_gpu_program_runs_anywhere(tmp_path: Path) -> None:
    """On the CPU: its rows in every mode, every method, one layer, a pass, and a long run shortened to ten images."""
    cpu = torch.device("cpu")
    with torch._dynamo.config.patch(recompile_limit=64):  # nothing is recorded here: rows are compiled again in turns
        rows = gpu.measured(SMALL, 1, cpu, backend="aot_eager")["rows"]
    failed = {name: row["failed"] for name, row in rows.items() if "failed" in row}
    assert not failed and {f"KARST, ours, {mode}" for mode in gpu.MODES} <= rows.keys()
    assert all(row["wall_median_s"] > 0 for row in rows.values())
    methods = gpu.methods(SMALL, 1, cpu)["rows"]
    assert {"karst, captured", "spt_lora, eager", "bitfit, captured"} <= methods.keys()
    assert not [name for name, row in methods.items() if "failed" in row]
    assert gpu.evaluation(SMALL, 1, cpu)["rows"]["captured"]["share_of_product_rate"] > 0
    assert gpu.forms(1, cpu, tokens=[64])["rows"]
    small = ["backbone=vit_mini", "backbone.weights=none", "device=cpu", "precision=fp32", "backbone.model_args.depth=1"]
    short = gpu.long_run(10, 1, small)["rows"]
    assert all(phases["train_s"] > 0 for phases in short.values())
    assert {name.partition(",")[0]: row["mode"] for name, row in short.items()} == {
        "eager": "eager", "compile": "compile", "embedded suite": "eager"
    }  # fmt: skip
    assert short["eager"]["last_loss"] == short["eager, again"]["last_loss"]
