"""A trained adapter in use, from the command line: evaluated, predicted with, exported, checked; it says itself what it is."""

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from torchvision.io import write_png

from karst_bench.cli.hydra_app import main
from karst_bench.config.compose import settings_of
from karst_bench.errors import UserError
from karst_bench.records.predictions import read_predictions
from karst_bench.records.record import RunRecord
from karst_bench.run import pipeline
from karst_bench.run.check import check_runs
from karst_bench.run.commands import act

Words = Callable[..., list[str]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, mini_cache: Path) -> tuple[Path, RunRecord]:
    """(the results folder, the record) of LoRA on digits after four steps."""
    root = tmp_path_factory.mktemp("run")
    words = ["method=lora", "method.r=2", "dataset=mini/digits", "recipe.epochs=1", "recipe.batch=250", "threads=1",
             "save_predictions=true", "diagnostics=true", f"paths.results={root}", f"paths.cache={mini_cache}"]  # fmt: skip
    return root, pipeline.run(settings_of(words))


@pytest.fixture
def words(run: tuple[Path, RunRecord], mini_cache: Path) -> Words:
    """The overrides of an action with the adapter: nothing says its method, backbone or data."""
    root, record = run
    where = [f"adapter={root}/{record.adapter}", f"paths.results={root}", f"paths.cache={mini_cache}", "threads=1"]
    return lambda *more: [*where, *more]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three images, one of them none."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in (0, 2):
        pixels = torch.randint(0, 256, (3, 40, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(i))
        write_png(pixels, str(folder / f"{i}.png"))
    (folder / "1.png").write_bytes(b"no picture")
    return folder


def test_the_run_kept_what_it_said_of_every_image(run: tuple[Path, RunRecord]) -> None:
    root, record = run
    assert record.predictions is not None
    found = read_predictions(root / record.predictions)
    assert (found.id, found.split, len(found)) == (record.id, "test", record.metrics.test_n)
    assert found.top1_pct == record.metrics.test_top1_last_pct
    assert (root / record.predictions).stat().st_size < 6 * len(found) + 600
    checked = check_runs(root)
    assert checked.differences == [] and (checked.scored, checked.listed) == (1, 1)


def test_a_record_holds_what_lies_behind_its_accuracy(run: tuple[Path, RunRecord]) -> None:
    found, metrics = run[1].diagnostics, run[1].metrics
    assert found is not None and found.nll is not None and found.ece_pct is not None
    assert sum(map(sum, found.confusion)) == metrics.test_n
    assert 100 * sum(row[i] for i, row in enumerate(found.confusion)) / metrics.test_n == metrics.test_top1_last_pct
    assert [update.path for update in found.updates] == [f"blocks.{i}.attn.qkv" for i in range(8)]
    assert all(1 <= update.effective_rank <= 4 < update.largest_rank for update in found.updates), "q and v, of rank 2 each"
    assert [feature.path for feature in found.features] == [f"blocks.{i}" for i in range(8)]
    assert all(feature.std_before > 0 and feature.std_after != feature.std_before for feature in found.features)


def test_diagnose_says_of_the_adapter_what_the_record_says(run: tuple[Path, RunRecord], words: Words, tmp_path: Path, capsys,
                                                           monkeypatch) -> None:  # fmt: skip
    from karst_bench.report import diagnostic_figures

    drawn = []
    monkeypatch.setattr(diagnostic_figures, "write_diagnostic_figures", lambda found, folder, **_: drawn.append(folder))
    act(settings_of(words("action=diagnose", f"out={tmp_path}/d")))
    told = capsys.readouterr().out
    assert "effective rank of 8 weight changes" in told and json.loads(told.splitlines()[-1], parse_constant=pytest.fail)
    said = json.loads((tmp_path / "d/diagnostics.json").read_text())
    recorded = run[1].diagnostics
    assert recorded is not None and drawn == [tmp_path / "d"]
    ranks = [update["effective_rank"] for update in said["updates"]]
    assert ranks == pytest.approx([update.effective_rank for update in recorded.updates], rel=1e-4)
    assert said["nll"] == pytest.approx(recorded.nll, rel=1e-2)


def test_a_block_without_spread_before_leaves_no_ratio() -> None:
    from karst_bench.records.diagnostics import Diagnostics, FeatureFacts
    from karst_bench.run.diagnosing import diagnostic_lines

    flat = FeatureFacts(path="blocks.0", mean_before=0.0, std_before=0.0, mean_after=1.0, std_after=1.0)
    assert diagnostic_lines(Diagnostics(nll=0.5, features=(flat,))) == ["negative log-likelihood 0.5000 nats"]


def test_a_failing_diagnosis_costs_a_note_not_the_run(monkeypatch, run: tuple[Path, RunRecord]) -> None:
    from types import SimpleNamespace

    from karst_bench.run import diagnosing

    monkeypatch.setattr(diagnosing, "diagnostics_of", lambda *_: 1 / 0)
    found, notes = diagnosing.diagnosed(SimpleNamespace(title="a run"), None, None)  # type: ignore[arg-type]
    assert found is None and notes == ("no diagnostics: ZeroDivisionError",)


def test_an_adapter_alone_is_evaluated_as_it_was_trained(run: tuple[Path, RunRecord], words: Words, capsys) -> None:
    settings = settings_of(words("action=evaluate"))
    assert (settings.method["name"], settings.dataset["name"], settings.backbone["name"]) == ("lora", "mini/digits", "vit_mini")
    assert act(settings)["top1_pct"] == pytest.approx(run[1].metrics.test_top1_last_pct, abs=0.26)  # two of 800 images
    assert json.loads(capsys.readouterr().out.splitlines()[-1], parse_constant=pytest.fail)["n"] == 800


@pytest.mark.parametrize(
    ("given", "said"),
    [(["method=karst"], "method=lora"), (["method=lora", "method.r=4"], "method.r=2"), (["extra=rst"], "extra=none"),
     (["also=vpt_deep"], "also=none")],
)  # fmt: skip
def test_a_method_that_is_given_agrees_with_the_adapters(given: list[str], said: str, words: Words) -> None:
    with pytest.raises(UserError, match=f"{given[-1]}, but .* was trained with {said}"):
        settings_of(words("action=evaluate", *given))
    settings_of(words("action=evaluate", "method=lora", "method.r=2"))


def test_another_backbone_is_refused_unless_it_is_meant(words: Words, tmp_path: Path) -> None:
    other = words("action=export", "format=folder", f"out={tmp_path}/out", "backbone=vit_mini", "backbone.weights=none")
    with pytest.raises(UserError, match="other weights"):
        act(settings_of(other))
    act(settings_of([*other, "allow_other_backbone=true"]))
    with pytest.raises(UserError, match=r"vit.*swin|swin.*vit"):
        act(settings_of(words("action=export", "format=folder", f"out={tmp_path}/out", "backbone=swin_mini")))


def test_a_bad_file_is_a_line_and_an_exit_code(words: Words, pictures: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "p.json"
    assert main(words("action=predict", f"images={pictures}", "topk=2", "format=json", f"out={out}")) == 2
    assert "1 of 3 images could not be read" in capsys.readouterr().err
    rows = json.loads(out.read_text())
    assert [row["image"] for row in rows] == ["0.png", "1.png", "2.png"]
    assert "not a readable image" in rows[1]["error"] and len(rows[0]["classes"]) == len(rows[0]["probabilities"]) == 2
    (pictures / "1.png").unlink()
    assert main(words("action=predict", f"images={pictures}", "topk=2", "format=csv")) == 0
    table = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    found = [(row["image"], row["class_1"], row["class_2"]) for row in table]
    assert found == [(row["image"], *row["classes"]) for row in (rows[0], rows[2])]
    assert all(row["class_1"] in "0123456789" and 0 <= float(row["probability_1"]) <= 1 for row in table)
    assert main(words("action=predict", f"images={pictures}", "topk=1")) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == ["image", "top", "1"]
    (pictures / "2.png").rename(pictures / os.fsdecode(b"\xe9.png"))
    assert main(words("action=predict", f"images={pictures}", "topk=1", "format=csv", f"out={out}")) == 0
    assert [line.split(",")[0] for line in out.read_text().splitlines()] == ["image", "0.png", r"\udce9.png"]


def test_classes_have_the_names_that_the_adapter_brings(
    run: tuple[Path, RunRecord], words: Words, pictures: Path, tmp_path: Path
) -> None:
    act(settings_of(words("action=export", "format=folder", f"out={tmp_path}/mine")))
    said = json.loads((tmp_path / "mine/adapter.json").read_text())["about"]
    assert said["record"] == run[1].id and said["scores"][0]["top1_pct"] == run[1].metrics.test_top1_last_pct
    card = (tmp_path / "mine/README.md").read_text()
    assert f"{run[1].metrics.test_top1_last_pct:.2f} % of 800 images" in card and "mini/digits, 10 classes" in card
    (pictures / "1.png").unlink()
    made = next(line for line in card.splitlines() if line.startswith("model = ")).removeprefix("model = ")
    assert len(eval(made, {"timm": timm}).blocks) == 8, "vit_mini's own shape"
    folder = [f"adapter={tmp_path}/mine", f"out={tmp_path}/text"]
    rows = act(settings_of(words(*folder, "action=predict", f"images={pictures}", "topk=10")))
    assert sorted(rows[0]["classes"]) == sorted(said["dataset"]["class_names"]) == list("0123456789")


def test_an_export_without_a_form_names_them(words: Words, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="onnx, torch, folder, peft"):
        act(settings_of(words("action=export", f"out={tmp_path}/x")))
    act(settings_of(words("action=export", "format=peft", f"out={tmp_path}/peft")))
    config = json.loads((tmp_path / "peft/adapter_config.json").read_text())
    assert config["peft_type"] == "LORA" and config["r"] == 4, "q and v, of rank 2 each"
