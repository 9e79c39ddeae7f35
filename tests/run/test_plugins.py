"""A method and a dataset of someone else: three files in a folder of their own reach a run, its record and a table."""

import csv
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from karst_bench.cli.app import main
from karst_bench.records.store import Store

METHOD = '''
from dataclasses import dataclass

import torch
from torch import nn

from karst_bench.methods.base import AdaptedModel, Artefact, Method, ModelSpec


@dataclass(kw_only=True)
class OutputShift(Method):
    """y = W0 x + b0 + b on `proj`; d scalars a block."""

    last: int

    def attach(self, model: AdaptedModel, artefact: Artefact | None) -> None:
        for site in model.sites("proj")[-self.last:]:
            model.affine(site, None, nn.Parameter(torch.zeros(site.d_out)), centre=1.0)

    def expected_params(self, spec: ModelSpec) -> int:
        return sum(site.d_out for site in spec.having("proj")[-self.last:])
'''
METHOD_YAML = """
_target_: karst_bench.methods.output_shift.OutputShift
name: output_shift
about: {title: Output shift, paper: null, row: null, extra: null, printed: {}}
last: 2
"""
DATASET_YAML = """
defaults: [vtab/_base@_here_, _self_]
name: mine/leaves
task: leaves
title: Leaves
order: 1
group: natural
classes: 2
sizes: {train800: 4, val200: 2, test: 4}
folder: leaves
"""


def image_folder(home: Path) -> None:
    """Ten pictures of one colour, dark ones and bright ones, in VTAB's layout."""
    (home / "images").mkdir(parents=True)
    for i in range(10):
        Image.new("RGB", (20, 24), (20 + 150 * (i % 2), 5 * i, 60)).save(home / "images" / f"{i}.png")
    lists = {"train800": range(4), "val200": range(4, 6), "train800val200": range(6), "test": range(6, 10)}
    for name, numbers in lists.items():
        (home / f"{name}.txt").write_text("".join(f"images/{i}.png {i % 2}\n" for i in numbers))


def forget() -> None:
    """What reports remember of conf/."""
    for name, module in list(sys.modules.items()):
        for value in vars(module).values() if name.startswith("karst_bench.report") else ():
            if hasattr(value, "cache_clear"):
                value.cache_clear()


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The plug-in folder; a report forgets afterwards what its configuration said."""
    home = tmp_path / "plugins"
    written = {"methods/output_shift.py": METHOD, "conf/method/output_shift.yaml": METHOD_YAML,
               "conf/dataset/mine/leaves.yaml": DATASET_YAML}  # fmt: skip
    for name, text in written.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    monkeypatch.setenv("KARST_BENCH_PLUGINS", str(home))
    forget()
    yield home
    monkeypatch.undo()
    forget()


def test_a_made_up_method_and_dataset_reach_a_run_a_record_and_a_table(
    plugins: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image_folder(tmp_path / "data" / "vtab-1k" / "leaves")
    where = [f"paths.{name}={tmp_path / name}" for name in ("data", "results", "cache", "outputs")]
    words = ["method=output_shift", "dataset=mine/leaves", "backbone=vit_mini", "recipe=mini", "recipe.epochs=1",
             "recipe.warmup=0", "threads=1"]  # fmt: skip
    assert main(["run", *words, *where]) == 0
    (record,) = Store(tmp_path / "results", "vtab").records()
    assert record.config["method"]["about"]["title"] == "Output shift" and record.config["dataset"]["name"] == "mine/leaves"
    assert record.counts.trainable_params == 2 * 96 and record.metrics.test_n == 4

    assert main(["status", *words, *where]) == 0
    assert "1 cells: 1 done" in capsys.readouterr().out
    assert main(["report", "suite=vtab", f"results={tmp_path / 'results'}", "pictures=false"]) == 0
    assert "output_shift" in capsys.readouterr().out
    with (tmp_path / "results" / "report" / "vtab" / "runs_vit_mini_own.csv").open() as file:
        (line,) = csv.DictReader(file)
    assert line["method"].startswith("output_shift") and float(line["params_m"]) == pytest.approx(192e-6)
    assert float(line["mine/leaves"]) == record.metrics.test_top1_last_pct


@pytest.mark.parametrize("key", ["name", "task", "group", "classes", "folder"])
def test_a_dataset_without_a_key_that_runs_need_is_refused(key: str, plugins: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = plugins / "conf/dataset/mine/leaves.yaml"
    file.write_text("".join(line for line in DATASET_YAML.splitlines(keepends=True) if not line.startswith(f"{key}:")))
    assert main(["run", "method=linear", "dataset=mine/leaves"]) == 2
    assert f"its file does not say {key}; " in capsys.readouterr().err
    file.write_text(DATASET_YAML)
    assert main(["run", "method=linear", "dataset=mine/leaves", "dataset.source=tfds"]) == 2
    assert "its file does not say tfds.builder; " in capsys.readouterr().err


def test_a_dataset_of_someone_else_is_looked_at_like_the_suites_own(
    plugins: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image_folder(tmp_path / "data" / "vtab-1k" / "leaves")
    for command in ("audit", "status"):
        assert main(["data", command, f"root={tmp_path / 'data'}", "tasks=mine/leaves"]) == 0
        assert "mine/leaves" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [("conf/method/odd.yaml", b"name: [odd,\n b: }\n", "odd.yaml is no YAML: "),
     ("conf/method/odd.yaml", b"name: \xff\xfe\n", "odd.yaml is no text in UTF-8 (byte 6)"),
     ("methods/booming.py", b"raise RuntimeError('boom')\n", "its file ends with RuntimeError: boom")],
)  # fmt: skip
def test_a_broken_file_of_someone_else_is_named(
    name: str, content: bytes, said: str, plugins: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (plugins / "conf/method/odd.yaml").write_text(METHOD_YAML.replace("output_shift.OutputShift", "booming.X"))
    (plugins / name).write_bytes(content)
    assert main(["run", "method=odd", "action=describe"]) == 2
    assert said in capsys.readouterr().err
