"""Own datasets, backbones and suites: every run is in a table, and what is not has its reason."""

import csv
import shlex

import pytest
from report_records import record, write

from karst_bench.cli.app import main
from karst_bench.config import sweep_files
from karst_bench.config.compose import settings_of
from karst_bench.config.sweeps import expand, jobs
from karst_bench.report import style
from karst_bench.report.report import write_report
from karst_bench.report.statistics import contrasts
from karst_bench.report.suite import load_suite

METHODS = ("linear", "bitfit", "ssf", "lora", "karst")
BACKBONE = {"config__backbone": {"name": "vit_mini"}}


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def report_of(results, pictures=False, suite="vtab", **more):
    return write_report(suite, {"own": results / "runs" / "vtab"}, results / "report" / suite, pictures, **more)


def photographs(results):
    """Five methods on two VTAB tasks and a set of one's own, one backbone that no table is about; a stopped one lacks a task."""
    sets = (("vtab", "caltech101"), ("vtab", "dtd"), ("mine", "leaves"))
    made = [
        record(method, task, 0, 30.0 + 2 * m + t, config__dataset__name=f"{folder}/{task}", **BACKBONE,
               **({"group": "own", "config__dataset__suite": "photos"} if folder == "mine" else {}))
        for m, method in enumerate(METHODS) for t, (folder, task) in enumerate(sets) if (method, task) != ("ssf", "dtd")
    ]  # fmt: skip
    write(results, *made)
    return made


def test_runs_on_another_backbone_are_tables_with_averages_statistics_and_figures(tmp_path, monkeypatch):
    monkeypatch.setattr(style, "FIGURE_FILES", {"svg": style.FIGURE_FILES["svg"]})
    made = photographs(tmp_path)
    report = report_of(tmp_path, pictures=True)
    rows = {row["method"].partition(" [")[0]: row for row in read_csv(report.folder / "runs_vit_mini_vtab.csv")}
    assert [rows["karst"][key] for key in ("vtab/caltech101", "vtab/dtd", "task_avg")] == ["38", "39", "38.5"]
    assert rows["ssf"]["vtab/dtd"] == rows["ssf"]["task_avg"] == "" and rows["ssf"]["vtab/caltech101"] == "34"
    assert {row["mine/leaves"] for row in read_csv(report.folder / "runs_vit_mini_own.csv")} == {"32", "34", "36", "38", "40"}
    assert report.left_out == [] and {path.name for path in report.folder.glob("*.svg")} == {f"{n}.svg" for n in report.figures}
    assert {"pareto_runs_vit_mini_vtab", "ranks_runs_vit_mini_vtab", "pareto_runs_vit_mini_own"} <= set(report.figures)
    assert read_csv(report.folder / "pairs_runs_vit_mini_vtab.csv")
    long = read_csv(report.folder / "results.csv")
    assert sorted(line["id"] for line in long) == sorted(item["id"] for item in made) and all(line["tables"] for line in long)
    (wide,) = [line for line in read_csv(report.folder / "results_wide.csv") if line["method"] == "karst"]
    assert (wide["vtab/dtd"], wide["vtab/dtd_n"], wide["mine/leaves"]) == ("39", "1", "40")


def test_a_suite_is_what_datasets_say_or_what_is_named(tmp_path, capsys):
    photographs(tmp_path)
    assert main(["report", "suite=photos", f"results={tmp_path}", "records=own", "pictures=false"]) == 0
    assert {row["mine/leaves"] for row in read_csv(tmp_path / "report/photos/runs_vit_mini_photos.csv")} == {
        "32", "34", "36", "38", "40"}  # fmt: skip
    assert "vit_mini: photos" in capsys.readouterr().out
    words = ["tasks=mine/leaves,vtab/dtd", f"out={tmp_path / 'there'}", f"results={tmp_path}", "records=own", "pictures=false"]
    assert main(["report", *words]) == 0
    header, *lines = (tmp_path / "there" / "runs_vit_mini_named.csv").read_text().splitlines()
    assert header.index("mine/leaves") < header.index("vtab/dtd") and len(lines) == 5
    assert not (tmp_path / "there" / "table1.md").exists() and "of vtab/caltech101, which was not named" in capsys.readouterr().out
    assert main(["report", "suite=photo", f"results={tmp_path}", "records=own"]) == 2
    assert "did you mean photos" in capsys.readouterr().err


def test_what_is_left_out_has_one_reason_each(tmp_path):
    """A seed that says two things in two folders; a copy that says the same; a file that is no record."""
    twice = [record("lora", "dtd", 0, 60.0), record("lora", "dtd", 1, 61.0)]
    write(tmp_path, *twice)
    write(tmp_path / "other", record("lora", "dtd", 0, 50.0), twice[1])
    (tmp_path / "runs" / "vtab" / "odd.json").write_text("{}")
    folders = {"own": tmp_path / "runs" / "vtab", "imported": tmp_path / "other" / "runs" / "vtab"}
    report = write_report("vtab", folders, tmp_path / "report" / "vtab", False)
    own, counted = (line for line in report.left_out if line.startswith("imported/"))
    assert {own.partition(": ")[2], counted.partition(": ")[2]} == {
        f"seed 0 of lora on vtab/dtd says otherwise in own/{twice[0]['id']}; none of them counts",
        "seed 1 of lora on vtab/dtd is counted once, by another file that says the same",
    }
    assert len(report.left_out) == 4 and any(line.startswith("own/odd.json: ") for line in report.left_out)
    assert (report.folder / "left_out.txt").read_text().splitlines() == report.left_out


def test_a_report_takes_the_place_of_an_earlier_one_and_of_nothing_else(tmp_path):
    photographs(tmp_path)
    folder = report_of(tmp_path).folder
    (folder / "mine.md").write_text("not the report's")
    assert (folder / "runs_vit_mini_own.md").exists()
    for path in (tmp_path / "runs" / "vtab").glob("*.json"):
        path.unlink()
    report_of(tmp_path)
    assert not (folder / "runs_vit_mini_own.md").exists() and (folder / "mine.md").exists() and (folder / "table1.md").exists()


def test_commands_of_missing_cells_fill_the_row_that_stands(tmp_path):
    """A tuned row wants tuned seeds; one that deviates is none of the plan's; every command can be composed."""
    tuned = {"config__tuned": {"name": "ours", "values": {"recipe.lr": 0.003}, "listed": True}, "config__recipe__lr": 0.003}
    write(tmp_path, record("karst", "digits", 0, 60.0, "mini", **tuned))
    write(tmp_path, record("lora", "digits", 0, 60.0, "mini", config__recipe__wd=1))
    folders = {"own": tmp_path / "runs" / "mini"}
    report = write_report("mini", folders, tmp_path / "report" / "mini", False)
    lines = {(line["table"], line["method"], line["dataset"]): line for line in read_csv(report.folder / "missing.csv")}
    assert lines["table1", "karst", "mini/digits"]["command"] == (
        "karst-bench run method=karst tuned=ours protocol=peek10 dataset=mini/digits backbone=vit_mini seed=1,2 -m"
    )
    other = lines["table1", "lora", "mini/digits"]["command"]
    assert "method=lora tuned=ours protocol=peek10 dataset=mini/digits backbone=vit_mini seed=0,1,2" in other
    for table in report.gaps:
        gap = report.gaps[table][-1]
        words = shlex.split(gap.whole)
        assert words[:2] == ["karst-bench", "run"]
        settings_of(jobs(expand([word for word in words[2:] if word != "-m"]))[-1])


def test_contrasts_are_within_one_kind_of_tuning(tmp_path):
    tuned = {"config__tuned": {"name": "ours", "values": {"recipe.lr": 0.003}, "listed": True}, "config__recipe__lr": 0.003}
    for number, (method, kind) in enumerate((("lora", {}), ("ssf", {}), ("karst", tuned), ("bitfit", tuned))):
        write(tmp_path, *(record(method, task, 0, 60.0 + number, **kind) for task in load_suite("vtab").task_names))
    report = report_of(tmp_path)
    pairs = next(table for table in report.tables if table.name == "pairs")
    found = [(row.cells["first"].text, row.cells["second"].text) for row in pairs.rows]
    assert sorted(found) == [("karst [tuned=ours]", "bitfit [tuned=ours]"), ("ssf", "lora")]
    assert any("across kinds of tuning: " in note and "karst (tuned=ours) and lora (tuned=none)" in note for note in pairs.notes)


def test_contrasts_are_declared_on_the_command_line_in_a_sweep_or_in_the_configuration(tmp_path, monkeypatch):
    conf = tmp_path / "conf"
    conf.mkdir()
    (conf / "config.yaml").write_text("report: {contrasts: [ssf:lora]}")
    monkeypatch.setattr(sweep_files, "config_dir", lambda: conf)
    vtab = load_suite("vtab")
    assert contrasts.declared_pairs("", vtab) == [("ssf", "lora")]
    assert contrasts.declared_pairs("karst:lora, karst:ssf", vtab) == [("karst", "lora"), ("karst", "ssf")]
    assert contrasts.declared_pairs("", vtab, "table3") == []
    (conf / "config.yaml").write_text("report: {contrast: [ssf:lora]}")
    with pytest.raises(sweep_files.UserError, match="one key, contrasts"):
        contrasts.declared_pairs("", vtab)
    assert sweep_files.declared_contrasts({"contrasts": ["a:b"]}, "x") == ("a:b",)


def test_the_cells_of_another_number_of_shots_are_others(tmp_path):
    write(tmp_path, record("lora", "dtd", 0, 60.0), record("lora", "dtd", 1, 10.0, shots=4, split_seed=0))
    report = report_of(tmp_path)
    (row,) = [row for row in read_csv(report.folder / "table1.csv") if row["source"] == "own"]
    assert (row["dtd"], row["dtd_n"]) == ("60", "1")


def test_status_counts_what_reports_count(tmp_path, capsys):
    """Reference and own; records=own is what a run would find done."""
    words = ["status", "method=lora", "dataset=mini/digits", "protocol=peek10", f"results={tmp_path}"]
    assert main([*words, "tuned=ours"]) == 0
    assert "1 cells: 1 done" in capsys.readouterr().out
    assert main([*words, "tuned=ours", "records=own"]) == 0
    out = capsys.readouterr().out
    assert "1 cells: 0 done" in out and f"(own) of {tmp_path}" in out
