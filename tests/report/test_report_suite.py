"""What tables consist of comes from conf/ and from records: a new method, dataset or table is one YAML file."""

import csv
import itertools
import shutil

import pandas as pd
import pytest
from report_records import record, write

from karst_bench.config.option_files import option_config, option_defaults, options
from karst_bench.config.sweep_files import SUITES
from karst_bench.errors import UserError
from karst_bench.files import packaged
from karst_bench.report import experiment, load, paper, style, suite
from karst_bench.report.placing import place_runs
from karst_bench.report.report import write_report
from karst_bench.report.suite import load_suite, planned_rows


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """A plug-in folder that configurations may be put into, and nothing remembered of what conf/ held before."""
    folder = tmp_path / "plugin" / "conf"
    folder.mkdir(parents=True)
    monkeypatch.setenv("KARST_BENCH_PLUGINS", str(folder.parent))
    caches = load_suite, suite.method_file, suite._datasets, experiment.dataset_file, experiment.default_facts
    caches += experiment.known_options, experiment._file, experiment._like
    for cache in caches:
        cache.cache_clear()
    yield folder
    monkeypatch.undo()
    for cache in caches:
        cache.cache_clear()


PROTOCOLS = ("last", "peek10", "val", "best_val")


def put(folder, option, text):
    path = folder / f"{option}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def report_of(name, results, pictures=False):
    return write_report(name, {"own": results / "runs" / name}, results / "report" / name, pictures)


def table_of(report, name):
    return next(table for table in report.tables if table.name == name)


def label(row):
    return row.cells["method"].text


def test_tasks_stand_in_the_order_of_the_printed_table():
    with (packaged("results/paper") / "table1_vit_b16.csv").open() as file:
        printed = next(csv.reader(file))
    assert load_suite("vtab").task_names == tuple(printed[2:21])


@pytest.mark.parametrize(("name", "sizes"), [("vtab", (7, 4, 8)), ("mini", (3, 2, 4))])
def test_groups_and_weights(name, sizes):
    found = load_suite(name)
    assert tuple(found.groups) == ("natural", "specialized", "structured")
    assert tuple(map(len, found.groups.values())) == sizes
    assert found.group_weights == [1 / (3 * size) for size in sizes for _ in range(size)]
    assert sum(found.task_weights) == pytest.approx(1) == sum(found.group_weights)


@pytest.mark.parametrize("name", SUITES)
def test_every_dataset_says_its_title(name):
    found = load_suite(name)
    assert all(
        option_config("dataset", task.option)["title"] == task.title for task in (*found.tasks, *found.few_shot_sets)
    )
    assert len({task.title for task in found.tasks}) == len(found.tasks)


def test_every_printed_row_finds_its_method():
    vtab = load_suite("vtab")
    printed = paper.printed_tables(vtab)
    assert set(printed) == {"table1", "table2", "table3"}
    names = {name: paper.printed_names(vtab.sweeps[name], printed[name]) for name in printed}
    assert all(set(names[name].values()) == set(printed[name].index) for name in printed)
    assert names["table1"]["vpt_deep"] == "VPT" and names["table1"]["sparse_tuning"] == "Sparse-Tuning"
    assert names["table3"] == {"fact_tk": "FacT", "fact_tk+rst_scalar": "FacT + RST", "ka": "KA", "karst": "KA + RST"}
    assert paper.printed_tables(load_suite("mini")) == {}


def test_a_method_says_the_extra_that_its_file_chooses():
    """`about.extra` names what the defaults list overrides; labels rest on it."""
    for method in (name for name in options("method") if name != "none"):
        chosen = option_defaults("method", method).get("extra", "none")
        assert suite.own_extra(method) == chosen, method


def test_the_words_of_a_planned_row_run_what_it_is_called():
    rows = {row.method: row.words for row in planned_rows(load_suite("vtab").sweeps["table3"])}
    assert rows["karst"] == "method=karst" and rows["fact_tk+rst_scalar"] == "method=fact_tk extra=rst_scalar"


def test_the_rows_that_a_sweep_plans_are_those_it_shows_and_finds_missing(tmp_path):
    """Of the embedded suite those at searched rates: a run at the defaults fills no planned cell."""
    searched = {"config__tuned": {"name": "ours", "values": {"recipe.lr": 0.03}, "listed": True}, "config__recipe__lr": 0.03}
    for seed, changes in ((0, {}), (1, searched)):
        write(tmp_path / "runs" / "mini", record("lora", "digits", seed, suite="mini", **changes))
    report = report_of("mini", tmp_path)
    assert "lora [tuned=ours]" in map(label, table_of(report, "table1").rows)
    with (tmp_path / "report" / "mini" / "missing.csv").open() as file:
        lacking = [row for row in csv.DictReader(file) if row["method"] == "lora"]
    digits = next(row for row in lacking if row["table"] == "table1" and row["dataset"] == "mini/digits")
    assert "tuned=ours" in digits["command"] and "seed=0,2" in digits["command"]


def test_what_no_search_was_made_for_and_what_selected_nothing_is_told(tmp_path):
    """A row of tuned=ours may be at its defaults, and a budget may be more than a small backbone can spend."""
    bare = {"config__tuned": {"name": "ours", "values": {}, "listed": False}}
    searched = {"config__tuned": {"name": "ours", "values": {"recipe.lr": 0.03}, "listed": True}, "config__recipe__lr": 0.03}
    made = [record("lora", "digits", suite="mini", **searched), record("oft", "digits", suite="mini", **bare)]
    made += [record(f"spt_{kind}", "digits", suite="mini", counts__trainable_params=count, **bare)
             for kind, count in (("lora", 120_864), ("adapter", 390_000))]  # fmt: skip
    write(tmp_path, *made)
    notes = table_of(report_of("mini", tmp_path), "table1").notes
    assert "tuned=ours has no values for oft, spt_adapter, spt_lora: they ran at their own defaults." in notes
    (told,) = [note for note in notes if "budget" in note]
    assert told.startswith("spt_lora: its budget of 400,000 scalars is more than the backbone can spend (120,864 train)")


def test_a_printed_row_that_nobody_planned_is_shown_and_drawn(tmp_path, monkeypatch):
    shutil.copytree(packaged("results/paper"), tmp_path / "paper")
    file = tmp_path / "paper" / "table1_vit_b16.csv"
    file.write_text(file.read_text() + "SNF,0.25," + ",".join(["70.0"] * 19) + ",70.0,70.0\n")
    monkeypatch.setattr(paper, "packaged", lambda name: tmp_path / "paper")
    monkeypatch.setattr(style, "FIGURE_FILES", {"svg": {"Date": None}})
    report = report_of("vtab", tmp_path, pictures=True)
    rows = [(row.source, label(row)) for row in table_of(report, "table1").rows]
    assert ("paper", "SNF") in rows and ("ours", "SNF") not in rows and len([row for row in rows if row[0] == "paper"]) == 16
    assert "SNF" in paper.printed_costs(
        load_suite("vtab"), paper.printed_tables(load_suite("vtab"), tmp_path / "paper")
    )


def test_a_method_of_someone_else_joins_by_its_own_record(tmp_path):
    """No file of it is here: its record says which extra is its own, and its runs on the same tasks make a row."""
    about = {"config__method__about": {"title": "Made up", "extra": "rst"}}
    made = [record("made_up", task, hyper={"rank": 3}, extra="rst", **about) for task in load_suite("vtab").task_names]
    write(tmp_path, *made, record("other", "dtd", extra="rst", config__method__about={"title": "Other"}))
    rows = {label(row): row for row in table_of(report_of("vtab", tmp_path), "table1").rows}
    assert rows["made_up"].cells["group_avg"].value == pytest.approx(70.0)
    assert "other+rst" in rows and "other" not in rows


def test_runs_without_room_in_a_table_get_one_by_backbone(tmp_path):
    write(tmp_path, record("lora", "leaves", 0, 88.0, group="own", config__dataset__name="mine/leaves"))
    write(tmp_path, record("lora", "leaves", 0, 44.0, shots=4, split_seed=0, config__dataset__name="mine/leaves"))
    write(tmp_path, record("karst", "dtd", 0, 77.0, config__backbone={"name": "vit_large/new"}))
    report = report_of("vtab", tmp_path)
    for name, expected in (("own", {"mine/leaves": 88.0}), ("own_shots", {"mine/leaves@4": 44.0})):
        (row,) = table_of(report, f"runs_vit_b16_{name}").rows
        assert {key: cell.value for key, cell in row.cells.items() if key.startswith("mine/")} == expected
    (large,) = table_of(report, "runs_vit_large_new_vtab").rows
    assert (label(large), large.cells["vtab/dtd"].value) == ("karst", 77.0)
    page = (report.folder / "index.html").read_text()
    assert page.index("vit_large/new: VTAB-1K tasks") < page.index('<h2 id="numbers">')


def test_nothing_valid_is_in_no_table(tmp_path):
    """Every dataset x backbone x protocol that a record may have; those that measured val200 alone in tables of their own."""
    sets = [
        ("vtab/dtd", "dtd", None),
        ("mine/leaves", "leaves", None),
        ("fewshot/pets", "pets", 4),
        ("fewshot/pets", "pets", 3),
    ]
    backbones = ("vit_b16", "swin_b", "vit_other")
    for (dataset, task, shots), backbone, protocol in itertools.product(sets, backbones, PROTOCOLS):
        peak, val = 71.0 if protocol == "peek10" else None, 66.0 if protocol == "val" else None
        item = record(task=task, shots=shots, split_seed=None if shots is None else 0, protocol=protocol, peak=peak,
                      seed=backbones.index(backbone) + 3 * PROTOCOLS.index(protocol), metrics__val_top1_last_pct=val,
                      config__dataset__name=dataset, config__backbone={"name": backbone})  # fmt: skip
        write(tmp_path, item)
    runs, left_out = load.load_runs(tmp_path / "runs" / "vtab", "vtab")
    assert len(runs) == 48 and left_out == []
    placed = place_runs(runs, load_suite("vtab"))
    assert placed.run_ids == {run.id for run in runs} and placed.unplaced == []
    on_val = {group.name for group in placed.groups if group.footing == "val"}
    assert {name for run in runs if run.protocol == "val" for name in placed.where["own", run.id]} == on_val and len(on_val) > 3


def test_a_table_takes_peek10_beside_last_and_no_run_of_few_shots(tmp_path):
    """peek10 trains and ends as last does; a run of four images a class is none of a task's 1000."""
    own = {"group": "own", "config__dataset__name": "mine/leaves"}
    write(tmp_path, record("lora", "leaves", 1, **own), record("lora", "leaves", 2, protocol="peek10", peak=71.0, **own))
    write(tmp_path, record("lora", "dtd", 3, group="natural", shots=4, split_seed=0, config__dataset__name="vtab/dtd"))
    runs, _ = load.load_runs(tmp_path / "runs" / "vtab", "vtab")
    where = place_runs(runs, load_suite("vtab")).where
    found = {run.seed: where["own", run.id] for run in runs}
    assert found == {1: ("runs_vit_b16_own",), 2: ("runs_vit_b16_own",), 3: ("runs_vit_b16_vtab_shots",)}


def test_a_printed_mean_with_a_hole_is_not_recomputed():
    vtab = load_suite("vtab")
    frame = pd.DataFrame({task: [70.0, 70.0] for task in vtab.task_names}, index=["whole", "hole"])
    frame.loc["hole", "dtd"] = float("nan")
    again = paper.recomputed_means(frame, vtab)
    assert again.loc["whole"].tolist() == [70.0, 70.0] and again.loc["hole"].isna().all()


METHOD = """
_target_: karst_bench.methods.lora.LoRA
name: made_up
about: {title: Made up, row: null, extra: null}
rank: 3
"""


def test_a_new_dataset_is_one_file(fresh, tmp_path):
    put(fresh, "dataset/mini/leaves", "defaults: [mini/_base@_here_, _self_]\nname: mini/leaves\ntask: leaves\n"
        "title: Leaves\norder: 2\ngroup: specialized\nclasses: 4\n")  # fmt: skip
    found = load_suite("mini")
    assert found.groups["specialized"][0] == "leaves" and found.title("leaves") == "Leaves" and len(found.tasks) == 10
    write(tmp_path, record(task="leaves", suite="mini", group="specialized"))
    report = report_of("mini", tmp_path)
    assert "Leaves" in (report.folder / "table1.md").read_text()
    assert any("mini/leaves" in gap.datasets for gap in report.gaps["table1"])


def test_a_new_method_and_its_defaults_are_one_file(fresh, tmp_path):
    put(fresh, "method/made_up", METHOD)
    write(tmp_path, record("made_up", hyper={"rank": 3}), record("made_up", task="dtd", hyper={"rank": 5}))
    labels = {label(row) for row in table_of(report_of("vtab", tmp_path), "table1").rows}
    assert "made_up" in labels
    write(tmp_path / "bent", record("made_up", hyper={"rank": 5}))
    labels = {label(row) for row in table_of(report_of("vtab", tmp_path / "bent"), "table1").rows}
    assert "made_up [rank=5]" in labels


SWEEP = """
title: {vtab: "Table IV: made up"}
axes: {method: [lora, full], dataset: {vtab: "vtab/natural,mine/leaves"}, seed: [0, 1], backbone: {vtab: vit_b16}}
table: {columns: task, protocols: [best_val]}
"""


def test_a_new_table_is_one_file_and_may_know_one_suite(fresh, tmp_path):
    put(fresh, "sweep/table4", SWEEP.replace('"vtab/natural,mine/leaves"', "[vtab/natural, mine/leaves]"))
    put(fresh, "dataset/mine/leaves", "name: mine/leaves\nsuite: vtab\ntask: leaves\ngroup: own\nclasses: 4\n")
    assert "table4" not in load_suite("mini").sweeps
    sets = (*load_suite("vtab").groups["natural"], "leaves")
    for name in sets:
        folder = "mine" if name == "leaves" else "vtab"
        own = {"config__dataset__classes": 4, "config__dataset__source": None} if name == "leaves" else {}
        write(tmp_path, record("lora", name, 0, 60.0, protocol="best_val", config__dataset__name=f"{folder}/{name}", **own))
    write(tmp_path, record("lora", "dtd", 0, 10.0))
    table = table_of(report_of("vtab", tmp_path), "table4")
    assert [column.key for column in table.columns if column.group] == list(sets)
    assert [label(row) for row in table.rows] == ["lora [protocol=best_val]"]
    assert table.rows[0].cells["dtd"].value == table.rows[0].cells["task_avg"].value == 60.0
    assert table.notes[0].startswith("Mean over seeds of the test accuracy at the epoch that the protocol")


@pytest.mark.parametrize("name", ["imagenet", "", "../vtab"])
def test_an_unknown_suite_is_an_error(name):
    with pytest.raises(UserError, match="use one of vtab, mini"):
        load_suite(name)


def test_no_default_is_composed_with_a_set_that_needs_a_place():
    """Whatever the order of a set of names: dataset=folder composes with its root alone."""
    assert all(experiment._like(name) != "folder" for name in experiment.known_options("dataset"))
