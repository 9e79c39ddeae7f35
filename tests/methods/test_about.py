"""What a method's YAML says of itself (methods/build.py lists the keys), against the paper's tables and the composition."""

import csv

import pytest

from karst_bench.config.option_files import options
from karst_bench.files import packaged

METHODS = [name for name in options("method") if name != "none"]
TABLES = {"vit_b16": ("table1_vit_b16.csv", "table3_rescaling.csv"), "swin_b": ("table2_swin_b.csv",)}


@pytest.fixture(scope="module")
def rows():
    """{backbone: {printed row: millions as printed}}; KARST is Table III's KA + RST."""
    found = {}
    for backbone, names in TABLES.items():
        found[backbone] = {}
        for name in names:
            with (packaged("results/paper") / name).open(newline="") as file:
                found[backbone] |= {row["method"]: row["params_m"] or None for row in csv.DictReader(file)}
    return found


@pytest.mark.parametrize("name", METHODS)
def test_facts(settings, rows, name):
    chosen = settings(f"method={name}")
    about = chosen["method"]["about"]
    assert about.keys() <= {"title", "paper", "row", "extra", "printed", "why", "steps"}
    assert (about.get("extra") or "none") == chosen["extra"]["name"], "the extra that the method brings along"
    row, printed = about.get("row"), about.get("printed") or {}
    if row is not None:
        assert {b: printed.get(b) for b in TABLES} == {b: rows[b].get(row) for b in TABLES}
    assert {b: value for b, value in printed.items() if value is not None and value not in rows[b].values()} == {}


def test_titles_and_rows_are_one_methods_own(settings):
    abouts = [settings(f"method={name}")["method"]["about"] for name in METHODS]
    for key in ("title", "row"):
        values = [about[key] for about in abouts if about.get(key) is not None]
        assert len(values) == len(set(values)), key


def test_it_changes_no_identity_and_no_method(settings):
    from karst_bench.methods.build import build_methods
    from karst_bench.records.identity import cell_key

    full, bare = settings("method=karst"), settings("method=karst")
    for node in ("method", "extra"):
        del bare[node]["about"]
    assert cell_key(full) == cell_key(bare)
    assert build_methods(full) == build_methods(bare)


def test_a_method_of_ones_own(tmp_path, monkeypatch, settings):
    """A plug-in folder with one file; its class is found in this package."""
    from karst_bench.methods.build import build_methods

    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "mine.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "from karst_bench.methods.base import Method\n\n"
        "@dataclass(kw_only=True)\nclass Mine(Method):\n    r: int\n"
    )
    monkeypatch.setenv("KARST_BENCH_PLUGINS", str(tmp_path))
    chosen = settings("method=linear")
    chosen["method"] = {"_target_": "karst_bench.methods.mine.Mine", "name": "mine", "about": {"title": "Mine"}, "r": 3}
    (method,) = build_methods(chosen)
    assert (method.name, method.r) == ("mine", 3)
