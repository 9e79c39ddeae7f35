"""Out of one installation and into another: compare, export, import."""

import csv
import json

import pytest
from report_records import record, write

from karst_bench.cli.app import main

TASKS = ("dtd", "pets", "svhn")


def results_of(folder, shift=0.0, seeds=3, **changes):
    made = [record("lora", task, seed, 60.0 + seed + i + shift + 0.1 * i * seed * bool(shift), **changes)
            for i, task in enumerate(TASKS) for seed in range(seeds)]  # fmt: skip
    write(folder, *made)
    return str(folder)


@pytest.mark.parametrize(("shift", "seeds", "code", "word"), [
    (0.0, 3, 0, "-"), (-5.0, 3, 1, "FELL"), (5.0, 3, 0, "rose"), (-5.0, 1, 1, "FELL"),
])  # fmt: skip
def test_compare_is_a_gate(tmp_path, capsys, shift, seeds, code, word):
    """Two code versions, other library included: paired by cell and seed."""
    first = results_of(tmp_path / "a", seeds=seeds)
    second = results_of(tmp_path / "b", shift, seeds, provenance__torch="2.16.0", provenance__commit="f" * 40)
    assert main(["compare", first, second, "suite=vtab"]) == code
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("lora on vit_b16")]
    assert line.split()[3] == "3" and line.split()[-1] == word
    assert float(line.split()[4]) == pytest.approx(shift + 0.1 * bool(shift) * (seeds - 1) / 2, abs=0.006)


def test_compare_takes_commits_and_names_what_is_neither(tmp_path, capsys):
    results_of(tmp_path)
    for commit in ("a" * 40, "b" * 40):
        write(tmp_path, record("karst", "dtd", 0 if commit[0] == "a" else 1, 70.0, provenance__commit=commit))
    assert main(["compare", "aaaaaaa", "bbbbbbb", f"results={tmp_path}"]) == 0
    assert "karst on vit_b16" in capsys.readouterr().out
    assert main(["compare", "aaaaaaa", "nothing", f"results={tmp_path}"]) == 2
    assert "no folder and no commit" in capsys.readouterr().err
    assert main(["compare", "aaaaaaa", "ccccccc", f"results={tmp_path}"]) == 2


def test_compare_takes_origins_and_refuses_to_pass_what_shares_no_cell(tmp_path, capsys):
    for folder, shift in (("reference", 0.0), ("runs", -5.0)):
        results_of(tmp_path / folder, shift)
        (tmp_path / folder / "runs" / "vtab").rename(tmp_path / folder / "vtab")
    assert main(["compare", "reference", "own", f"results={tmp_path}"]) == 1
    assert "FELL" in capsys.readouterr().out
    other = results_of(tmp_path / "other", config__backbone={"name": "vit_other"})
    assert main(["compare", "own", other, f"results={tmp_path}"]) == 2
    assert "no cell in common" in capsys.readouterr().err


def test_two_suites_are_compared_by_the_order_of_their_methods(tmp_path, capsys):
    """Spearman of 1..6 against 1..6 with one neighbouring pair swapped: 1 - 6 * 2 / (6 * 35)."""
    methods = ("linear", "bitfit", "ssf", "lora", "karst", "fact_tk")
    (tmp_path / "reference" / "mini").mkdir(parents=True)
    for suite, order in (("vtab", (1, 2, 3, 4, 5, 6)), ("mini", (1, 2, 3, 4, 6, 5))):
        task = "dtd" if suite == "vtab" else "count"
        write(tmp_path, *(record(method, task, 0, 50.0 + value, suite) for method, value in zip(methods, order, strict=True)))
    assert main(["compare", "vtab", "mini", f"results={tmp_path}"]) == 0
    out = capsys.readouterr().out
    assert "Order of 6 methods" in out and f"Spearman {1 - 12 / 210:.2f}" in out


def test_export_says_every_cell_with_its_protocol_and_ids(tmp_path, capsys):
    results_of(tmp_path)
    write(tmp_path, record("lora", "dtd", 7, 10.0, config__recipe__wd=1))
    for name in ("cells.json", "cells.csv"):
        assert main(["export", f"to={tmp_path / name}", f"results={tmp_path}"]) == 0
    cells = json.loads((tmp_path / "cells.json").read_text())
    rows = list(csv.DictReader((tmp_path / "cells.csv").read_text().splitlines()))
    assert len(cells) == len(rows) == 4
    cell = next(cell for cell in cells if cell["cell"] == "vtab/dtd" and cell["label"] == "lora")
    assert (cell["n"], cell["mean_top1_pct"], cell["seeds"], cell["protocol"]) == (3, 61.0, [0, 1, 2], ["last"])
    assert all((tmp_path / "runs" / "vtab" / f"{run_id}.json").is_file() for run_id in cell["ids"])
    assert {row["label"] for row in rows} == {"lora", "lora [recipe.wd=1]"}
    assert main(["export", f"to={tmp_path / 'cells.xls'}", f"results={tmp_path}"]) == 2


def test_import_checks_and_keeps_apart(tmp_path, capsys):
    results_of(tmp_path / "theirs")
    (forged,) = write(tmp_path / "theirs", record("lora", "dtd", 9, 99.0, id="0123456789abcdef"))
    words = ["import", str(tmp_path / "theirs"), "suite=vtab", f"results={tmp_path / 'mine'}"]
    for copied in (9, 0):
        assert main(words) == 1
        out = capsys.readouterr().out
        assert f"{copied} records imported" in out and out.count("left out:") == 1 and forged.name in out
    assert len(list((tmp_path / "mine" / "imported" / "vtab").glob("*.json"))) == 9
    report = ["report", f"results={tmp_path / 'mine'}", "pictures=false"]
    assert main(report) == 0 and "0 finished runs" in capsys.readouterr().out
    assert main([*report, "records=own,imported"]) == 0 and "9 of imported" in capsys.readouterr().out
