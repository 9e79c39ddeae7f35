"""The whole report on made records: forms, escaping, determinism, misprints, missing cells, LaTeX, the command line."""

import csv
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import fmean

import matplotlib
import matplotlib.pyplot as plt
import pytest
from report_records import full_suite, record, write

from karst_bench.cli.app import main
from karst_bench.config.option_files import options
from karst_bench.config.sweep_files import SUITES
from karst_bench.errors import UserError
from karst_bench.files import packaged
from karst_bench.report import figure_data, formats, missing, paper, published, style
from karst_bench.report.report import write_report
from karst_bench.report.suite import load_suite
from karst_bench.report.table_model import Column, Table, TableCell, TableRow, with_ranks
from scripts import interval_coverage

VTAB = load_suite("vtab")
DOCS = Path(__file__).parents[2] / "docs"
FORMS = {"table1", "table2", "table3", "figure2", "figure3", "ablation", "statistics", "pairs"}
PICTURES = {"figure2", "figure3", "ablation", "pareto", "ranks"}


def report_of(suite, results, pictures=True):
    """The report on results/runs/<suite>, in results/report/<suite>."""
    return write_report(suite, {"own": results / "runs" / suite}, results / "report" / suite, pictures)


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    results = tmp_path_factory.mktemp("full")
    write(results, *full_suite("vtab"))
    return report_of("vtab", results, pictures=False)


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("suite", SUITES)
def test_nothing_ran(tmp_path, suite, capsys, monkeypatch):
    monkeypatch.setattr(style, "FIGURE_FILES", SVG_ONLY)
    monkeypatch.setattr(missing, "options", lambda group: [name for name in options(group) if name not in ("lst", "noah")])
    (tmp_path / "reference" / suite).mkdir(parents=True)  # else those of the repository
    assert main(["report", f"suite={suite}", f"results={tmp_path}"]) == 0
    out = capsys.readouterr().out
    assert "0 finished runs" in out and "karst-bench run" in out
    folder = tmp_path / "report" / suite
    made = FORMS | ({"fgvc", "paper_diff"} if suite == "vtab" else set())
    expected = {f"{name}.{form}" for name in made for form in ("md", "csv", "tex")}
    expected |= {"pareto.svg"} if suite == "vtab" else set()  # the paper's own points; no empty picture
    expected |= {"index.html", "figures.json", "missing.md", "missing.csv", "left_out.txt", "results.csv", "results_wide.csv",
                 "manifest.txt"}  # fmt: skip
    assert {path.name for path in folder.iterdir()} == expected == set((folder / "manifest.txt").read_text().split())
    page = (folder / "table1.md").read_text()
    assert "| own |" not in page and "No run, hence no row: full, linear, " in page
    assert ("| paper |" in page) == (suite == "vtab")
    commands = (folder / "missing.md").read_text()
    assert "method=lora" in commands and "method=lst" not in commands and "not built here: lst, noah" in commands
    assert "Read: 0 of reference, " in out and "Read: 0 of own, " in out


def test_numbers_of_a_full_report(full):
    lines = {(line["method"], line["source"]): line for line in read_csv(full.folder / "table1.csv")}
    ours = lines["karst", "own"]
    tasks = [float(ours[task]) for task in VTAB.task_names]
    assert float(ours["task_avg"]) == pytest.approx(sum(tasks) / 19, abs=1e-3)
    groups = [sum(tasks[:7]) / 7, sum(tasks[7:11]) / 4, sum(tasks[11:]) / 8]
    assert float(ours["group_avg"]) == pytest.approx(sum(groups) / 3, abs=1e-3)
    assert ours["cifar100_n"] == "3" and float(ours["cifar100_ci95_low"]) < tasks[0] < float(ours["cifar100_ci95_high"])
    assert float(ours["peak_avg"]) > float(ours["group_avg"]) and float(ours["peeking_gap"]) > 0
    assert float(ours["natural"]) == pytest.approx(groups[0], abs=1e-3)
    peaks = {task: [] for task in VTAB.task_names}
    for line in read_csv(full.folder / "results.csv"):
        if line["method"] == "karst" and line["peak_top1_pct"]:
            peaks[line["task"]].append(float(line["peak_top1_pct"]))
    groups = [fmean(fmean(peaks[task]) for task in members) for members in VTAB.groups.values()]
    assert float(ours["peak_avg"]) == pytest.approx(fmean(groups), abs=1e-3)
    for line in (ours, lines["KARST", "paper"]):  # V-PETL Bench: accuracy * exp(-log10(1 + parameters / 10M))
        share = math.exp(-math.log10(1 + float(line["params_m"]) / 10))
        assert float(line["ppt"]) == pytest.approx(float(line["task_avg"]) / 100 * share, abs=1e-3)
    assert lines["Sparse-Tuning", "paper"]["group_avg_recomputed"] == "77.4065"
    assert lines["KARST", "paper"]["cifar100"] == "76.8"
    bent = {method.partition(" [")[0] for method, source in lines if source == "own" and "[" in method}
    assert {gap.method for gap in full.gaps["table1"]} == bent and len(bent) < 3, "a row that deviates fills no cell of the plan"
    assert len(full.gaps["table2"]) == 8
    points = read_csv(full.folder / "figure3.csv")
    assert [line["N"] for line in points] == ["1", "2", "3", "4"]


HEAVY = ("torch", "timm", "matplotlib", "wandb", "tensorflow_datasets")
SVG_ONLY = {"svg": {"Date": None, "Creator": None}}  # a third of the time; the other two are drawn by the same calls


@pytest.fixture(scope="module")
def built_there(tmp_path_factory):
    """(made records, the folder of their report, heavy modules loaded for the tables alone): another process with another
    hash seed, the records written in the other order."""
    every, whole = full_suite("mini", seeds=2), ("lora", "ssf", "bitfit")  # whole ones: ranks and costs are drawn
    methods = [item["config"]["method"] for item in every]
    grid = [method["name"] == "karst" and [method[axis] for axis in "Nmr"] != [2, 8, 8] for method in methods]
    made = [item for i, item in enumerate(every) if i % 9 == 0 or methods[i]["name"] in whole or grid[i]]
    results = tmp_path_factory.mktemp("there")
    write(results, *made[::-1])
    code = (
        "import sys, karst_bench.report.report\n"
        f"print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)\n"
        "from karst_bench.cli.app import main; from karst_bench.report import style\n"
        f"style.FIGURE_FILES = {SVG_ONLY}; sys.exit(main(sys.argv[1:]))"
    )
    call = [sys.executable, "-c", code, "report", "suite=mini", "records=own", f"results={results}"]
    done = subprocess.run(call, env=os.environ | {"PYTHONHASHSEED": "77"}, capture_output=True, text=True, check=True)
    return made, results / "report" / "mini", done.stderr.splitlines()[0]


def test_two_builds_are_equal_byte_for_byte(built_there, tmp_path, monkeypatch):
    """Pictures included."""
    made, second, _ = built_there
    monkeypatch.setattr(style, "FIGURE_FILES", SVG_ONLY)
    write(tmp_path, *made)
    first = report_of("mini", tmp_path).folder
    names = {path.name for path in first.iterdir()}
    assert names == {path.name for path in second.iterdir()}
    assert {f"{name}.svg" for name in PICTURES} | {
        f"{name}.{form}" for name in FORMS for form in ("md", "csv", "tex")
    } < names
    for path in sorted(first.iterdir()):
        assert path.read_bytes() == (second / path.name).read_bytes(), path.name
    assert all("ssf" in (first / f"{name}.svg").read_text() for name in ("pareto", "ranks"))


def test_a_figure_is_written_in_three_forms_without_date_or_version(tmp_path):
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        with matplotlib.rc_context(style.RC):
            figure, axes = plt.subplots(figsize=(1, 1))
            axes.plot([1, 2], [1, 2], label="a")
            style.save_figure(figure, folder, "small")
    files = {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "two").iterdir()}
    assert set(files) == {"small.svg", "small.pdf", "small.png"}
    for data in files.values():
        assert not any(word in data for word in (b"CreationDate", b"<dc:date>", matplotlib.__version__.encode()))


def test_documented_coverage_is_the_simulated_one():
    text = (DOCS / "statistics.md").read_text()
    assert all(
        f"| {scenario} | average: Satterthwaite (printed) | " in text for scenario in interval_coverage.SCENARIOS
    )


def test_only_one_misprint_in_the_paper():
    tables = paper.printed_tables(VTAB)
    (found,) = paper.misprints(tables, VTAB)
    assert (found.table, found.method, found.column, found.printed) == ("table1", "Sparse-Tuning", "group_avg", 77.9)
    assert found.recomputed == pytest.approx(77.4065, abs=1e-3)
    assert paper.largest_rounding(tables, VTAB) == pytest.approx(0.104, abs=1e-3)


def test_a_new_misprint_is_found(tmp_path):
    shutil.copytree(packaged("results/paper"), tmp_path / "paper")
    path = tmp_path / "paper" / "table2_swin_b.csv"
    path.write_text(path.read_text().replace("64.2,78.6", "64.2,78.9"))
    found = paper.misprints(paper.printed_tables(VTAB, tmp_path / "paper"), VTAB)
    assert {m.method for m in found} == {"Sparse-Tuning", "KARST"}


def test_missing_paper_numbers_are_one_clear_line(tmp_path):
    with pytest.raises(UserError, match=r"table1_vit_b16\.csv"):
        paper.printed_tables(VTAB, tmp_path)


@pytest.mark.parametrize("words", [["suite=imagenet"], ["suit=vtab"], ["vtab"]])
def test_wrong_options(tmp_path, words, capsys):
    assert main(["report", *words, f"results={tmp_path}"]) == 2
    assert "vtab" in capsys.readouterr().err or words == ["suit=vtab"]


def test_reports_read_either_folder_or_both_and_say_which(tmp_path, capsys):
    write(tmp_path, record(seed=1, last=80.0))
    (path,) = write(tmp_path, record(seed=0, last=70.0))
    (tmp_path / "reference").mkdir()
    (tmp_path / "reference" / "vtab").symlink_to(tmp_path / "kept", target_is_directory=True)
    (tmp_path / "kept").mkdir()
    path.rename(tmp_path / "kept" / path.name)
    for words, value in (([], 75.0), (["records=own"], 80.0), (["records=reference"], 70.0)):
        assert main(["report", *words, f"results={tmp_path}", "pictures=false"]) == 0
        (row,) = [row for row in read_csv(tmp_path / "report/vtab/table1.csv") if row["source"] not in ("paper", "published")]
        assert float(row["cifar100"]) == value
        out = capsys.readouterr().out
        assert ("of own, " in out, "of reference, " in out) == ("reference" not in str(words), "own" not in str(words))
    assert main(["report", "records=refrence", f"results={tmp_path}"]) == 2
    assert "did you mean reference" in capsys.readouterr().err


def test_unwritable_folder_is_one_clear_line(tmp_path):
    (tmp_path / "report").write_text("a file where a folder should be")
    with pytest.raises(UserError, match="cannot write"):
        report_of("vtab", tmp_path, pictures=False)


def test_commands_for_missing_cells(tmp_path):
    write(tmp_path, *(record(task=t, seed=s) for t in VTAB.task_names for s in range(3) if (t, s) != ("dtd", 1)))
    report = report_of("vtab", tmp_path, pictures=False)
    lines = {(line["table"], line["method"], line["dataset"]): line for line in read_csv(report.folder / "missing.csv")}
    assert lines["table1", "karst", "vtab/dtd"]["command"] == (
        "karst-bench run method=karst dataset=vtab/dtd backbone=vit_b16 seed=1"
    )
    assert lines["table1", "lora", "vtab/cifar100"]["command"] == (
        "karst-bench run method=lora dataset=vtab/cifar100 backbone=vit_b16 seed=0,1,2 -m"
    )
    assert ("table1", "karst", "vtab/pets") not in lines
    every = ",".join(task.option for task in VTAB.tasks)  # the page has one command for all of them
    whole = f"`karst-bench run method=lora dataset={every} backbone=vit_b16 seed=0,1,2 -m`"
    assert whole in (report.folder / "missing.md").read_text()
    assert "extra=rst_scalar" in lines["table3", "fact_tk+rst_scalar", "vtab/pets"]["command"]
    few = lines["figure2", "dtl", "fewshot/cars"]["command"]
    assert "dataset.shots=1,2,4,8,16" in few and "dataset.split_seed=0,1,2" in few and few.endswith("-m")
    assert "method.N=1,3,4" in lines["figure3", "karst", "vtab/pets"]["command"]


def test_splits_of_a_few_shot_cell_are_counted_as_seeds_are(tmp_path):
    """One split at one number of shots does not make the cell whole; what lacks the same is one command."""
    have = [(n, split) for n in (1, 2, 4, 8, 16) for split in (0, 1, 2) if (n, split) not in ((2, 1), (4, 1), (8, 0), (8, 2))]
    write(tmp_path, *(record(task="cars", shots=n, split_seed=split, protocol="best_val") for n, split in have))
    gaps = [gap for gap in report_of("vtab", tmp_path, pictures=False).gaps["figure2"] if gap.method == "karst"]
    found = {(gap.datasets, gap.words.partition("karst ")[2]) for gap in gaps}
    others = tuple(dataset.option for dataset in VTAB.few_shot_sets if dataset.task != "cars")
    assert found == {(("fewshot/cars",), "dataset.shots=2,4 dataset.split_seed=1"),
                     (("fewshot/cars",), "dataset.shots=8 dataset.split_seed=0,2"),
                     (others, "dataset.shots=1,2,4,8,16 dataset.split_seed=0,1,2")}  # fmt: skip


def test_marks_compare_like_with_like():
    """Two tuned rows and one untuned, three seeds and one: each kind has its own best."""
    given = [("none", 70.0, 3), ("none", 71.0, 3), ("none", 90.0, 1), ("ours", 80.0, 3), ("ours", 79.0, 3)]
    rows = [TableRow("ours", {"x": TableCell(value=value, n=n)}, kind) for kind, value, n in given]
    marks = [row.cells["x"].mark for row in with_ranks([Column("x", "X", ranked=True)], rows)]
    assert marks == ["second", "best", "", "best", "second"]


def test_best_and_second_within_their_source():
    values = [("paper", 80.04), ("paper", 79.0), ("ours", 70.0), ("ours", 71.04), ("ours", 70.96), ("ours", 60.0)]
    rows = [TableRow(source, {"x": TableCell(value=value)}) for source, value in values]
    marks = [row.cells["x"].mark for row in with_ranks([Column("x", "X", ranked=True)], rows)]
    assert marks == ["best", "second", "second", "best", "best", ""]
    assert with_ranks([Column("x", "X", ranked=True)], rows[:1])[0].cells["x"].mark == ""


def test_boxes_as_text():
    assert formats.cell_text(TableCell()) == "—"
    assert formats.cell_text(TableCell(value=76.84, low=76.4, high=77.2, n=3)) == "76.8 ±0.4 (3)"
    assert formats.cell_text(TableCell(value=77.9, recomputed=77.4065)) == "77.9 [!77.41]"
    assert formats.cell_text(TableCell(value=0.00002, digits=3, floor=0.001)) == "<0.001"
    assert formats.cell_text(TableCell(value=-18.2, low=-19.0, high=-17.4)) == "-18.2 ±0.8"
    assert formats.cell_text(TableCell(value=1.0, digits=2, low=0.5, high=1.5, bracket=True)) == "[0.50, 1.50]"


EVIL = r"<script>alert(1)</script> \input{/etc/passwd} $x^2$ 50% a_b #1 ~ & | `c` [x](javascript:y) *b* ü"


def evil_table():
    columns = [Column("method", "Method"), Column("x", "X")]
    return Table(
        "evil", EVIL, columns, [TableRow("ours", {"method": TableCell(EVIL), "x": TableCell(value=1.0)})], [EVIL]
    )


def test_markdown_stays_text():
    text = formats.to_markdown(evil_table())
    assert "<script" not in text and "](javascript" not in text and r"\|" in text and r"\`c\`" in text


def test_latex_stays_text():
    text = formats.to_latex(evil_table())
    assert r"\input" not in text.replace(r"\textbackslash{}input", "")
    body = text.split("\n", 1)[1]
    assert r"50\%" in body and r"a\_b" in body and body.isascii()
    assert body.count(r"\begin{") == body.count(r"\end{")


def test_markdown_of_hostile_records_stays_text(tmp_path):
    made = record(
        data__encoding="png", weights__timm_name=EVIL, provenance__version=EVIL, config__recipe={"name": EVIL},
        hyper={"note": EVIL},
    )  # fmt: skip
    write(tmp_path, made, record(seed=1))
    report = report_of("vtab", tmp_path, pictures=False)
    for path in report.folder.glob("*.md"):
        assert "<script" not in path.read_text()


def test_report_with_hostile_neighbours(tmp_path, capsys):
    paths = write(tmp_path, *(record(seed=seed, last=70 + seed) for seed in range(3)))
    (paths[0].parent / "bad.json").write_text('{"schema": 1, "id": "<script>"')
    assert main(["report", f"results={tmp_path}", "pictures=false"]) == 0
    out = capsys.readouterr().out
    assert "1 left out:" in out and "left out: own/bad.json" in out
    (ours,) = [
        x for x in read_csv(tmp_path / "report/vtab/table1.csv") if (x["method"], x["source"]) == ("karst", "own")
    ]
    assert (ours["cifar100"], ours["cifar100_n"], ours["group_avg"]) == ("71", "3", "")


def test_kinds_of_tuning_are_kept_apart_in_words(tmp_path):
    write(tmp_path, record("lora"), record("fact_tk", config__tuned={"name": "paper"}))
    table = report_of("vtab", tmp_path, pictures=False).tables[0]
    assert any("compare within one kind" in note for note in table.notes)
    assert any("tuned=paper" in note for note in table.notes)


def test_a_short_trial_is_told_apart_in_the_numbers_of_figure_2(tmp_path):
    """A run of one epoch is a setting of its own: beside whole runs it is named as left out, alone its key tells."""
    trial = {"config__recipe__epochs": 1, "config__recipe__augment": "fs_noah"}
    made = [record("karst", "pets", 0, 7.0, shots=4, split_seed=0, protocol="best_val", **trial)]
    for whole, left_out in ((0, False), (2, True)):
        made += [
            record("karst", "pets", seed, 80.0, shots=4, split_seed=0, protocol="best_val") for seed in range(whole)
        ]
        write(tmp_path / str(whole), *made)
        report = report_of("vtab", tmp_path / str(whole), pictures=False)
        table = next(table for table in report.tables if table.name == "figure2")
        (row,) = [row for row in table.rows if row.cells["set"].text == "Pets"]
        assert row.cells["method"].text == ("karst" if whole else "karst [recipe.augment=fs_noah, recipe.epochs=1]")
        assert row.cells["shots_4"].value == pytest.approx(80.0 if whole else 7.0)
        assert row.cells["provenance_key"].text == "a"
        result = "recipe=fs_dtl (110 epochs, augment fs_dtl)" if whole else "recipe=fs_dtl (1 epoch, augment fs_noah)"
        assert any(note.startswith("[a] ") and result in note for note in table.notes)
        assert any("further settings are not in this figure" in note for note in table.notes) == left_out


def test_mini_never_shows_the_papers_numbers(tmp_path):
    write(tmp_path, *full_suite("mini", seeds=2)[::3])
    report = report_of("mini", tmp_path, pictures=False)
    assert all(row.source == "ours" for table in report.tables for row in table.rows)
    assert not any("77.9" in note for table in report.tables for note in table.notes)
    assert "it is not VTAB" in (report.folder / "table1.md").read_text()


def test_complete_settings_join_the_table_unless_they_are_the_ablations(tmp_path):
    for number, bent in enumerate(({"hyper": {"N": 4, "m": 8, "r": 8}}, {"config__normalization": "half"}, {})):
        write(tmp_path, *(record(task=task, last=70 + number, **bent) for task in VTAB.task_names))
    table = next(t for t in report_of("vtab", tmp_path, pictures=False).tables if t.name == "table1")
    labels = [row.cells["method"].text for row in table.rows if row.source == "ours"]
    assert labels[-2:] == ["karst", "karst [normalization=half]"]
    assert any("19 runs of 1 further settings" in note for note in table.notes)
    rest = read_csv(tmp_path / "report" / "vtab" / "runs_vit_b16_vtab.csv")
    assert [(row["method"], float(row["task_avg"])) for row in rest] == [("karst [N=4]", 70.0)]


def test_ablation_uses_common_tasks(full):
    table = next(table for table in full.tables if table.name == "ablation")
    assert "mean of 4 tasks" in table.columns[4].title
    assert len(table.rows) == 9
    assert {row.cells["front"].text for row in table.rows} >= {"front", "-"}


def test_one_stray_run_does_not_empty_the_grid(tmp_path):
    grid = [record(task=t, hyper={"N": n, "m": 8, "r": 8}) for n in (1, 2, 4) for t in ("dtd", "pets")]
    write(tmp_path, *grid, record(task="svhn", hyper={"N": 8, "m": 8, "r": 8}))
    table = next(t for t in report_of("vtab", tmp_path, pictures=False).tables if t.name == "ablation")
    assert len(table.rows) == 3 and any("N=8 m=8 r=8" in note for note in table.notes)
    assert figure_data.axis_value([2, 2, 4, 8]) == "2/2/4/8"


@pytest.mark.parametrize("engine", ["pdflatex", "tectonic"])
def test_latex_compiles(full, tmp_path, engine):
    if shutil.which(engine) is None:
        pytest.skip(f"{engine} is not installed")
    names = sorted(FORMS)
    inputs = "\\clearpage".join(f"\\input{{{full.folder / name}.tex}}" for name in names)
    preamble = (full.folder / "table1.tex").read_text().splitlines()[0].removeprefix("% ")
    source = tmp_path / "all.tex"
    source.write_text(f"\\documentclass{{article}}{preamble}\\begin{{document}}{inputs}\\end{{document}}")
    words = ["-interaction=nonstopmode", "-halt-on-error"] if engine == "pdflatex" else []
    done = subprocess.run([engine, *words, source.name], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stdout[-2000:]


def test_latex_structure(full):
    for name in FORMS:
        text = (full.folder / f"{name}.tex").read_text()
        environments = re.findall(r"\\(begin|end)\{([a-z*]+)\}", text)
        opened = []
        for kind, environment in environments:
            assert kind == "begin" or opened.pop() == environment
            if kind == "begin":
                opened.append(environment)
        assert not opened and r"\toprule" in text and r"\bottomrule" in text and text.isascii()
        layout = re.search(r"\{@\{\}([lr]+)@\{\}\}", text).group(1)
        rows = [line for line in text.splitlines() if line.endswith(r" \\") and "multicolumn" not in line]
        rows = [line for line in rows if not line.startswith(r"\caption")]
        assert all(len(re.findall(r"(?<!\\)&", line)) == len(layout) - 1 for line in rows)


def test_reading_and_tables_need_neither_torch_nor_pictures(built_there):
    """Reports run where no training does; and a table is not a reason to load a drawing library."""
    assert built_there[-1] == "[]"


def test_the_fine_grained_sets_have_a_table_and_a_mean(tmp_path):
    """Five sets whose val lists choose the epoch; a run of another protocol is not mixed in."""
    sets = ("cub", "nabirds", "flowers", "dogs", "cars")
    runs = [
        record(task=task, seed=seed, last=80.0 + number + seed, protocol="best_val", group="fgvc")
        for number, task in enumerate(sets)
        for seed in (0, 1)
    ]  # fmt: skip
    runs.append(record(task="cub", seed=2, last=10.0, protocol="last", group="fgvc"))
    write(tmp_path, *runs)
    report_of("vtab", tmp_path, pictures=False)
    rows = {row["method"]: row for row in read_csv(tmp_path / "report" / "vtab" / "fgvc.csv")}
    assert [float(rows["karst"][task]) for task in sets] == [80.5, 81.5, 82.5, 83.5, 84.5]
    assert float(rows["karst"]["task_avg"]) == 82.5 and list(rows) == ["karst"]
    (rest,) = read_csv(tmp_path / "report" / "vtab" / "runs_vit_b16_fgvc.csv")
    assert rest["fgvc/cub"] == "10"


def test_numbers_of_others_stand_with_their_source_and_in_no_average(tmp_path):
    """A file of a user's own: good lines are rows of Table I, pictures included; bad ones are named."""
    folder = tmp_path / "published"
    folder.mkdir()
    lines = ["method,backbone,task,value,n,protocol,source", "SNF,vit_b16,group_avg,76.5,,last epoch,their README",
             "SNF,vit_b16,cifar100,84.0,1,last epoch,their README", "SNF,vit_b16,mean,74.1,1,last epoch,their README",
             "SNF,vit_b16,dtd,174,1,last epoch,their README", "SNF,swin_b,dtd,nan%,1,last epoch,their README"]  # fmt: skip
    (folder / "snf.csv").write_text("\n".join(lines))
    write(tmp_path, *(record(task=task) for task in VTAB.task_names))
    report = report_of("vtab", tmp_path, pictures=False)
    rows = {(row["method"], row["source"]): row for row in read_csv(report.folder / "table1.csv")}
    assert (rows["SNF", "published"]["cifar100"], rows["SNF", "published"]["group_avg"]) == ("84", "76.5")
    assert float(rows["karst", "own"]["group_avg"]) == pytest.approx(70.0)
    assert rows["PACE (LoRAmul + VPTadd)", "published"]["structured"] == "65.1"
    notes = next(table for table in report.tables if table.name == "table1").notes
    assert any(note.endswith("their README: last epoch; SNF mean 74.1") for note in notes)
    assert [line.partition(":")[0] for line in report.left_out] == [f"published/snf.csv line {n}" for n in (5, 6)]


def test_shipped_numbers_of_others_are_whole():
    rows, left_out = published.published_rows([packaged("results/published")])
    assert left_out == [] and {row.backbone for row in rows} == {"vit_b16"} and len(rows) == 43
    osu = [row.values["group_avg"][0] for row in rows if "OSU" in row.source]
    last, best = osu[:16], osu[16:]
    assert all(a <= b for a, b in zip(last, best, strict=True)), "the best test epoch is no worse than the last"


def test_a_second_number_for_one_cell_of_a_source_is_said_and_does_not_count(tmp_path):
    lines = [",".join(published.COLUMNS), *(f"lora,vit_b16,cifar100,{value},3,last,A paper" for value in (70, 71, 70))]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    (row,), left_out = published.published_rows([tmp_path])
    assert row.values == {"cifar100": (70.0, 3)}
    assert left_out == ["published/a.csv line 3: cifar100 of this source was 70 before and is 71 here; the first counts"]


def test_report_diff_paper_shows_cells_beside_the_printed_ones(tmp_path, capsys):
    write(tmp_path, record(task="cifar100", last=70.0))
    assert main(["report", "diff", "paper", f"results={tmp_path}", "pictures=false"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "cifar100" in line and line.startswith("table1")]
    assert line.split() == ["table1", "karst", "cifar100", "70.0", "(1)", "76.8", "-6.8"]
