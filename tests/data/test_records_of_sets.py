"""Sets in miniature, from files to a record: one epoch of a linear read-out on a small random backbone. One of each group; the
slow tests take all 24."""

import json
from pathlib import Path

import pytest
from miniatures import OPTIONS, dataset_of

from karst_bench.config.compose import settings_of
from karst_bench.run.pipeline import run

ONE_EACH = ("vtab/dtd", "vtab/eurosat", "vtab/clevr_count", "fewshot/pets")


@pytest.mark.parametrize("option", [pytest.param(o, marks=() if o in ONE_EACH else pytest.mark.slow) for o in OPTIONS])
def test_every_set_gives_a_record(option: str, all_sets: Path, tmp_path: Path) -> None:
    dataset = dataset_of(option)
    words = [
        f"dataset={option}", "method=linear", "backbone=vit_mini", "backbone.weights=none", "backbone.model_args.depth=1",
        "recipe.epochs=1", "recipe.warmup=0", "precision=fp32", "tracker=none", "save_adapter=false", f"paths.data={all_sets}",
        f"paths.cache={tmp_path / 'cache'}", f"paths.results={tmp_path / 'results'}",
    ]  # fmt: skip
    made = run(settings_of(words))
    (file,) = (tmp_path / "results" / "runs").glob("*/*.json")
    record = json.loads(file.read_text())
    assert record["status"] == "done" and record["id"] == made.id
    assert record["config"]["dataset"]["name"] == option
    data, metrics = record["data"], record["metrics"]
    assert data["own_split"] is True and data["source"] == "folder" and len(data["list_sha256"]) == 64
    assert data["encoding"] == ("native" if dataset["suite"] == "fewshot" else "jpeg75")
    assert metrics["test_n"] == 6 and metrics["train_n"] == (dataset["classes"] if dataset["suite"] == "fewshot" else 12)
    assert 0 <= metrics["test_top1_last_pct"] <= 100
