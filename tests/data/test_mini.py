"""The embedded suite: every YAML's task is drawn once and looked at."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from karst_bench.config.datasets import dataset_config
from karst_bench.data.mini import GENERATORS, POOL, draw, load_mini
from karst_bench.data.mini.difficulty import Difficulty
from karst_bench.data.mini.names import class_names
from karst_bench.data.task import Task
from karst_bench.errors import UserError
from karst_bench.records.identity import cell_key

YAMLS = sorted((Path(__file__).parents[2] / "conf" / "dataset" / "mini").glob("[!_]*.yaml"))
NODES = {path.stem: dataset_config(f"mini/{path.stem}") for path in YAMLS}
FEWSHOT = sorted(name for name, node in NODES.items() if node["group"] == "fewshot")
EASY = {"contrast": 80, "clutter": 1, "noise": 5, "fineness": 1}
WHOLE = sorted(set(NODES) - set(FEWSHOT))


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mini_cache")


def node(name: str, **changes: Any) -> dict[str, Any]:
    """The YAML's node with a fifth of its images: the generators draw image by image, so fewer show the same."""
    few = {split: count // 5 for split, count in NODES[name]["sizes"].items()}
    if name in FEWSHOT:
        few["val"] = NODES[name]["classes"]
    return {key: value for key, value in NODES[name].items() if key != "defaults"} | {"sizes": few} | changes


def load(name: str, cache: Path, size: int = 32, **changes: Any) -> Task:
    return load_mini(node(name, **changes), cache_root=cache, size=size)


def pixels(task: Task, split: str) -> np.ndarray:
    part = task.splits[split]
    return part.read(torch.arange(len(part))).images.numpy()


def keys(images: np.ndarray) -> set[bytes]:
    return {image.tobytes() for image in images}


def test_the_suite_is_whole():
    assert {n["group"] for n in NODES.values()} == {"natural", "specialized", "structured", "fewshot"}
    assert len(WHOLE) >= 9 and len(FEWSHOT) == 2 and set(NODES) == set(GENERATORS)
    for name, n in NODES.items():
        assert len(class_names(name)) == len(set(class_names(name))) == n["classes"]
        assert n["name"] == f"mini/{name}" and n["task"] == name and n["suite"] == "mini" and n["source"] == "mini"
        assert all(n[key] and "\n" not in n[key] for key in ("label_rule", "origin", "licence", "known_issues"))
    for name in WHOLE:
        sizes = NODES[name]["sizes"]
        assert sizes["train800"] <= 800 and sizes["train800"] == 4 * sizes["val200"] and sizes["test"] >= 500
    for path in YAMLS:
        assert path.read_text(encoding="utf-8").startswith(f"# python run.py dataset=mini/{path.stem}")


@pytest.mark.parametrize("name", WHOLE)
def test_counts_classes_and_disjoint_splits(name: str, cache: Path):
    task = load(name, cache)
    sizes = node(name)["sizes"]
    assert task.name == f"mini/{name}" and task.classes == NODES[name]["classes"]
    assert {split: len(task.splits[split]) for split in sizes} == sizes
    for split in sizes:
        images, labels = pixels(task, split), task.splits[split].labels
        assert images.dtype == np.uint8 and images.shape[1:] == (3, 32, 32)
        assert sorted(set(labels.tolist())) == list(range(task.classes))
        assert len(keys(images)) == len(images)
    train, val, test = (keys(pixels(task, split)) for split in ("train800", "val200", "test"))
    assert not train & val and not train & test and not val & test
    joined = pixels(task, "train800val200")
    assert keys(joined) == train | val and len(joined) == sizes["train800"] + sizes["val200"]


@pytest.mark.parametrize("name", FEWSHOT)
def test_shots_are_counted_nested_and_drawn_by_the_split_seed(name: str, cache: Path):
    smaller: set[bytes] = set()
    for shots in (1, 2, 4, 8, 16):
        task = load(name, cache, shots=shots)
        counts = torch.bincount(task.splits["train"].labels, minlength=task.classes)
        assert counts.tolist() == [shots] * task.classes
        chosen = keys(pixels(task, "train"))
        assert smaller < chosen
        smaller = chosen
    seeds = [load(name, cache, split_seed=seed) for seed in (0, 1, 2)]
    drawn = [keys(pixels(task, "train")) for task in seeds]
    assert drawn[0] != drawn[1] != drawn[2] != drawn[0]
    held = [keys(pixels(task, "val")) | keys(pixels(task, "test")) for task in seeds]
    assert held[0] == held[1] == held[2]
    assert not held[0] & (drawn[0] | drawn[1] | drawn[2])
    assert len({task.list_sha256 for task in seeds}) == 3
    assert {split: len(seeds[0].splits[split]) for split in ("val", "test")} == node(name)["sizes"]


@pytest.mark.parametrize("name", sorted(NODES))
def test_images_follow_from_task_split_and_number_alone(name: str, cache: Path):
    generator, level = GENERATORS[name], Difficulty.of(node(name))
    few = draw(name, generator, "test", 6, level)
    np.testing.assert_array_equal(few, draw(name, generator, "test", 9, level)[:6])
    np.testing.assert_array_equal(few, pixels(load(name, cache), "test")[:6])


@pytest.mark.parametrize("value", ["contrast", "clutter", "noise", "fineness"])
@pytest.mark.parametrize("name", sorted(NODES))
def test_each_value_of_the_difficulty_changes_the_images(name: str, value: str):
    level = NODES[name]["difficulty"]
    as_it_is, changed = (
        draw(name, GENERATORS[name], "test", 5, Difficulty.of(node(name, difficulty=values)))
        for values in (level, level | {value: level[value] * 1.25 + 1})
    )
    assert (as_it_is != changed).any()


def test_another_difficulty_is_another_task_for_cache_hash_and_id(tmp_path: Path):
    harder = NODES["digits"]["difficulty"] | {"noise": NODES["digits"]["difficulty"]["noise"] + 1}
    tasks = [load("digits", tmp_path), load("digits", tmp_path, difficulty=harder)]
    assert (pixels(tasks[0], "test") != pixels(tasks[1], "test")).any()
    assert tasks[0].list_sha256 != tasks[1].list_sha256
    assert len(list((tmp_path / "mini").glob("digits-*.npz"))) == 2
    assert cell_key({"dataset": node("digits")}) != cell_key({"dataset": node("digits", difficulty=harder)})


def test_the_cache_is_read_and_the_hash_says_the_same(cache: Path, monkeypatch: pytest.MonkeyPatch):
    first = load("digits", cache)
    monkeypatch.setattr("karst_bench.data.mini.draw", lambda *args: pytest.fail("drawn again"))
    assert load("digits", cache).list_sha256 == first.list_sha256
    assert not list(cache.glob("mini/.*"))


def cut(whole: bytes) -> bytes:
    return whole[:1000]


def flipped(whole: bytes) -> bytes:
    return whole[:50_000] + bytes([whole[50_000] ^ 1]) + whole[50_001:]


@pytest.mark.parametrize("damage", [cut, flipped])
def test_a_damaged_cache_is_drawn_again(
    damage: Callable[[bytes], bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    fresh = pixels(load("digits", tmp_path), "test")
    (path,) = (tmp_path / "mini").glob("digits-*.npz")
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    again = pixels(load("digits", tmp_path), "test")
    assert np.array_equal(again, fresh) and path.read_bytes() == whole
    assert str(path) in caplog.text


def test_images_are_drawn_where_no_cache_can_be(cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "mini").write_text("no folder")
    assert np.array_equal(pixels(load("digits", tmp_path), "test"), pixels(load("digits", cache), "test"))
    assert "cannot be written" in caplog.text


def test_another_size_is_the_same_image_resized(cache: Path):
    task = load("fs_flowers", cache, size=48)
    images = pixels(task, "val")
    assert images.shape[1:] == (3, 48, 48)
    small = pixels(load("fs_flowers", cache), "val")
    assert abs(images.mean() - small.mean()) < 1
    assert task.list_sha256 == load("fs_flowers", cache).list_sha256


@pytest.mark.parametrize(
    ("name", "changes", "text"),
    [
        ("digits", {"task": "nothing"}, "no generator called 'nothing'; known are digits"),
        ("digits", {"classes": 9}, "classes=9.*draws 10"),
        ("digits", {"sizes": {"val": 3, "test": 4}}, r"sizes must name \['test', 'train800', 'val200'\]"),
        ("digits", {"difficulty": None}, "difficulty must give contrast, clutter, noise, fineness, got None"),
        ("digits", {"difficulty": {"noise": 1}}, r"got \['noise'\]"),
        ("count", {"difficulty": EASY | {"noise": -1}}, r"difficulty.noise=-1 must lie in 0..100"),
        ("count", {"difficulty": EASY | {"fineness": "much"}}, "difficulty.fineness='much' is no number"),
        ("fs_glyphs", {"shots": 0}, rf"shots=0 must lie in 1\.\.{POOL}"),
    ],
)
def test_a_wrong_node_says_what_is_wrong(name: str, changes: dict[str, Any], text: str, cache: Path):
    with pytest.raises(UserError, match=text):
        load(name, cache, **changes)
