"""From the original archive to a trained adapter: prepare, audit, one epoch, by the commands' own functions."""

import json
from pathlib import Path

import pytest
from miniatures import VTAB

from karst_bench.config.compose import settings_of
from karst_bench.run import pipeline

FAST = ("kitti_distance", "dsprites_orientation")


@pytest.mark.parametrize(
    "task", [pytest.param(task, marks=() if task in FAST else pytest.mark.slow) for task in VTAB]
)  # fmt: skip
def test_a_built_set_trains(task: str, built: Path, tmp_path: Path) -> None:
    words = [
        f"dataset=vtab/{task}",
        "method=linear",
        "backbone=vit_mini",
        "recipe.epochs=1",
        "recipe.batch=16",
        "threads=1",
    ]
    pipeline.run(settings_of([*words, f"paths.data={built}", f"paths.results={tmp_path}/r", f"paths.cache={tmp_path}/c"]))
    (file,) = (tmp_path / "r").rglob("*.json")
    found = json.loads(file.read_text())
    assert found["data"]["encoding"] == "png" and found["data"]["source"] == "folder"
    assert 0 <= found["metrics"]["test_top1_last_pct"] <= 100
    assert any("differ from the published ones" in note or "own split" in note for note in found["notes"])
