"""Runs on pictures of one's own: what a record says of them, and that it is bound to them."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from karst_bench.adapt.backbone import build_backbone
from karst_bench.config.compose import settings_of
from karst_bench.engine import progress
from karst_bench.errors import UserError
from karst_bench.records.identity import cell_key, recomputed_id
from karst_bench.records.record import RunRecord
from karst_bench.run import commands, pipeline
from karst_bench.trackers.client import TrackerClient

NAMES = ["dark wood", "light wood"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for label, name in enumerate(NAMES):
        (tmp_path / "woods" / name).mkdir(parents=True)
        for number in range(10):
            pixels = rng.integers(0, 100, (12, 12, 3)) + 120 * label
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "woods" / name / f"{number}.png")
    return tmp_path / "woods"


def words(photos: Path, *more: str) -> list[str]:
    folder = photos.parent
    return ["method=lora", "dataset=folder", f"dataset.root={photos}", "recipe=mini", "recipe.epochs=1", "backbone=vit_mini",
            "backbone.weights=none", "backbone.model_args.depth=1", "device=cpu", "threads=1", f"paths.results={folder / 'r'}",
            f"paths.cache={folder / 'c'}", *more]  # fmt: skip


def ran(photos: Path, *more: str) -> RunRecord:
    return pipeline.run(settings_of(words(photos, *more)))


def test_a_record_is_bound_to_the_pictures(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="karst_bench")
    first = ran(photos)
    assert first.config["dataset"]["label_names"] == NAMES and "root" not in first.config["dataset"]
    assert first.data.source == "own" and first.data.pixels_sha256 and recomputed_id(first) == first.id
    assert any("20% of each class, drawn here" in note for note in first.notes) and str(photos) not in str(first)
    assert cell_key(first.config) == cell_key(settings_of(words(photos)).as_config())  # status finds it
    assert ran(photos).created == first.created and "done already" in caplog.messages[-1]

    moved = photos.rename(photos.with_name("elsewhere"))
    assert ran(moved, "dataset.name=woods").id == first.id

    picture = moved / NAMES[0] / "3.png"
    Image.new("RGB", (12, 12)).save(picture)
    other = ran(moved, "dataset.name=woods")
    assert other.id != first.id and other.data.list_sha256 == first.data.list_sha256


def test_pictures_under_published_lists_are_told_when_they_change(photos: Path) -> None:
    """The id of vtab/dtd goes by its lists, as it always did; the record says which pictures it is of."""
    home = photos.parent / "data" / "vtab-1k" / "dtd"
    shutil.copytree(photos, home / "images")
    rows = [f"images/{name}/{number}.png {label}" for label, name in enumerate(NAMES) for number in range(10)]
    for split, part in (("train800", rows[0::4]), ("val200", rows[1::4]), ("test", rows[2::4])):
        (home / f"{split}.txt").write_text("\n".join(part) + "\n")
    own = [word for word in words(photos) if not word.startswith("dataset")]
    start = ["dataset=vtab/dtd", f"paths.data={photos.parent / 'data'}", *own]
    first = pipeline.run(settings_of(start))
    assert first.data.images_sha256 and first.data.pixels_sha256 is None
    assert pipeline.run(settings_of(start)).created == first.created
    picture = home / "images" / NAMES[0] / "2.png"
    kept = picture.read_bytes()
    Image.new("RGB", (12, 12)).save(picture)
    with pytest.raises(UserError, match=r"of other pictures under the same lists.*force=true"):
        pipeline.run(settings_of(start))
    replaced = pipeline.run(settings_of([*start, "force=true"]))
    assert replaced.id == first.id and replaced.data.images_sha256 != first.data.images_sha256
    picture.write_bytes(kept)
    os.utime(picture)


def test_predictions_are_named(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = build_backbone(settings_of(words(photos)).backbone, classes=2, weights=None)
    weights = photos.parent / "w.safetensors"
    save_file({name: tensor for name, tensor in net.state_dict().items() if not name.startswith("head")}, weights)
    record = ran(photos, f"backbone.weights={weights}")
    adapter = photos.parent / "r" / str(record.adapter)
    capsys.readouterr()
    given = [f"backbone.weights={weights}", "action=predict", f"adapter={adapter}", f"images={photos}"]
    commands.act(settings_of(words(photos, *given)))
    shown = capsys.readouterr().out
    assert all(name in shown for name in NAMES)


def test_deep_photographs_are_predicted_as_they_were_trained(photos: Path, tmp_path: Path) -> None:
    """The level that was white in training is white for new pictures too; levels of 12 bits are those of 8 here, in TIFFs."""
    deep = tmp_path / "deep" / "woods"
    for path in photos.rglob("*.png"):
        grey = np.asarray(Image.open(path).convert("L")).astype(np.float64)
        Image.fromarray(grey.astype(np.uint8)).save(path)
        target = deep / path.relative_to(photos).with_suffix(".tif")
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.rint(grey * 4095 / 255).astype(np.uint16)).save(target)
    net = build_backbone(settings_of(words(photos)).backbone, classes=2, weights=None)
    weights = photos.parent / "w.safetensors"
    save_file({name: tensor for name, tensor in net.state_dict().items() if not name.startswith("head")}, weights)
    record = ran(deep, f"backbone.weights={weights}", "dataset.white=4095", f"paths.results={tmp_path / 'r'}")
    adapter = [f"backbone.weights={weights}", "action=predict", f"adapter={tmp_path / 'r' / str(record.adapter)}"]
    rows = [commands.act(settings_of(words(place, *adapter, f"images={place}"))) for place in (photos, deep)]
    found = [[(Path(row["image"]).stem, row["classes"], row["probabilities"]) for row in part] for part in rows]
    assert len(found[0]) == 20 and found[0] == found[1]


def test_few_steps_at_a_methods_own_rate_are_told(photos: Path) -> None:
    assert any("may stay at chance" in note for note in ran(photos, "method=full").notes)
    assert not any("stay at chance" in note for note in ran(photos, "method=full", "recipe.lr=1e-3").notes)


def test_a_long_epoch_is_told_without_a_terminal(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    caplog.set_level("INFO", logger="karst_bench")
    lines = progress.Lines("lora on own/woods")
    lines.on_start(3, 4, 0)
    for done, at in ((1, 1.0), (2, 11.0), (3, 12.0), (4, 30.0), (5, 31.0)):
        now[0] = at
        lines.on_step(1 + (done - 1) // 4, done, lambda: (0.5, 40.0))
    assert caplog.messages == ["lora on own/woods: epoch 1/3  step 2/4  loss 0.5000  train top-1 40.0 %",
                               "lora on own/woods: epoch 2/3  step 1/4  loss 0.5000  train top-1 40.0 %"]  # fmt: skip


def test_wandbs_own_variable_says_where_its_files_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    assert TrackerClient("wandb", {"folder": "elsewhere"}).settings["folder"] == str(tmp_path)
    assert TrackerClient("tensorboard", {"folder": "elsewhere"}).settings["folder"] == "elsewhere"
    monkeypatch.delenv("WANDB_DIR")
    assert TrackerClient("wandb", {"folder": "elsewhere"}).settings["folder"] == "elsewhere"
