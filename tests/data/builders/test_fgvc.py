"""The five fine-grained sets: true archive formats in miniature, VPT's lists or the same rule, and a run."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
from miniatures import dataset_of
from originals import draw, flowers102, pack, stored, tar, tasks

from karst_bench.config.compose import settings_of
from karst_bench.config.datasets import dataset_members
from karst_bench.data import load_task
from karst_bench.data.builders import prepare_data
from karst_bench.run import pipeline

Labels = dict[str, dict[str, int]]  # {train | val | test: {path: class}}


def birds(folder: Path, classes: int, top: str, archive: str, number_of: Callable[[int], int]) -> Labels:
    found: Labels = {"train": {}, "test": {}}
    files, lists = {}, {name: [] for name in ("images", "image_class_labels", "train_test_split")}
    for picture in range(classes * 3):
        label = picture % classes
        path = f"{label:03d}.Bird_{label}/Bird_{picture:04d}.jpg"
        files[f"{top}/images/{path}"] = stored(draw(picture, (8, 8, 3)))[0]
        split = "train" if picture < 2 * classes else "test"
        for name, value in (
            ("images", path),
            ("image_class_labels", number_of(label)),
            ("train_test_split", int(split == "train")),
        ):
            lists[name].append(f"{picture + 1} {value}")
        found[split][path] = label
    files |= {f"{top}/{name}.txt": "\n".join(lines).encode() for name, lines in lists.items()}
    files[f"{top}/parts/parts.txt"] = b"1 beak\n"
    tar(folder / archive, files)
    return found


def cub(folder: Path) -> Labels:
    return birds(folder, 200, "CUB_200_2011", "CUB_200_2011.tgz", lambda label: label + 1)


def nabirds(folder: Path) -> Labels:
    """The classes' numbers have gaps, and their order is that of numbers, not of words."""
    return birds(folder, 555, "nabirds", "nabirds.tar.gz", lambda label: 2 * label + 295)


def flowers(folder: Path) -> Labels:
    found = flowers102(folder)
    names = {"train": "train", "validation": "val", "test": "test"}
    return {name: {str(k): v for (s, k), v in found.labels.items() if s == split} for split, name in names.items()}


def cells(values: list[str]) -> np.ndarray:
    out = np.empty((len(values), 1), dtype=object)
    out[:, 0] = values
    return out


def dogs(folder: Path) -> Labels:
    found: Labels = {"train": {}, "test": {}}
    files = {}
    for picture in range(360):
        label, split = picture % 120, "train" if picture < 240 else "test"
        path = f"n{label:08d}-dog_{label}/n{label:08d}_{picture}.jpg"
        files[f"Images/{path}"] = stored(draw(picture, (8, 8, 3)))[0]
        found[split][path] = label
    tar(folder / "images.tar", files, "w")
    for split, entries in found.items():
        labels = np.array([[label + 1] for label in entries.values()], np.uint8)
        scipy.io.savemat(folder / f"{split}_list.mat", {"file_list": cells(list(entries)), "labels": labels})
    tar(folder / "lists.tar", {name: (folder / name).read_bytes() for name in ("train_list.mat", "test_list.mat")}, "w")
    return found


def cars(folder: Path) -> Labels:
    found: Labels = {"train": {}, "test": {}}
    for split, count in (("train", 392), ("test", 196)):
        files, rows = {}, []
        for picture in range(count):
            name = f"{picture + 1:05d}.jpg"
            files[f"cars_{split}/{name}"] = stored(draw(picture + 1000 * (split == "test"), (8, 8, 3)))[0]
            rows.append((1, 1, 5, 5, picture % 196 + 1, name))
            found[split][f"cars_{split}/{name}"] = picture % 196
        tar(folder / f"cars_{split}.tgz", files)
        kinds = [(name, object) for name in ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")]
        annotations = np.array(rows, dtype=kinds)[None]
        target = folder / ("cars_train_annos.mat" if split == "train" else "cars_test_annos_withlabels.mat")
        scipy.io.savemat(target, {"annotations": annotations})
    tar(folder / "car_devkit.tgz", {"devkit/cars_train_annos.mat": (folder / "cars_train_annos.mat").read_bytes()})
    (folder / "cars_train_annos.mat").unlink()
    return found


MAKERS = {"cub": cub, "nabirds": nabirds, "flowers": flowers, "dogs": dogs, "cars": cars}


class Sets(dict[str, tuple[Path, Labels]]):
    """{task: (folder of its archives, its labels)}, each made when first asked for."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root

    def __missing__(self, task: str) -> tuple[Path, Labels]:
        (self.root / task).mkdir()
        self[task] = self.root / task, MAKERS[task](self.root / task)
        return self[task]


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Sets:
    """The five sets' archives in miniature; not to be changed."""
    return Sets(tmp_path_factory.mktemp("fgvc"))


def listed(home: Path) -> Labels:
    found: Labels = {}
    for split in ("train", "val", "test"):
        rows = [line.split() for line in (home / f"{split}.txt").read_text().splitlines()]
        found[split] = {path.removeprefix("images/"): int(label) for path, label in rows}
    return found


def build(task: str, folder: Path, root: Path, **ask: Any) -> Path:
    (done,) = prepare_data({task: dataset_of(f"fgvc/{task}")}, "raw", root, archive=folder, verify=False, **ask)
    assert done.state == "built" and done.home is not None, done.text
    return done.home


@pytest.mark.parametrize("task", tasks(MAKERS, ("cub", "flowers", "dogs", "cars")))
def test_the_authors_split_with_a_tenth_kept_for_validation(task: str, sets: dict[str, Any], tmp_path: Path) -> None:
    folder, official = sets[task]
    home = build(task, folder, tmp_path)
    there = listed(home)
    assert there["test"] == official["test"]
    if task == "flowers":
        assert there == official
    else:
        assert there["train"] | there["val"] == official["train"] and not set(there["train"]) & set(there["val"])
        assert len(there["val"]) == -(-len(official["train"]) // 10)
    loaded = load_task(dataset_of(f"fgvc/{task}"), data_root=tmp_path, cache_root=tmp_path / "cache", size=16)
    assert loaded.classes == dataset_of(f"fgvc/{task}")["classes"] == len(set(official["train"].values()))
    assert set(loaded.splits) == {"train", "val", "test"} and loaded.own_split
    assert any("not by VPT" in note for note in loaded.notes) == (task != "flowers")
    first = next(iter(there["val"]))
    assert (home / "images" / first).read_bytes()[:2] == b"\xff\xd8"
    labels = loaded.splits["val"].labels
    assert torch.equal(labels, torch.tensor(list(there["val"].values())))


def vpt_lists(official: Labels, prefix: str, number_of: Callable[[int], int]) -> dict[str, bytes]:
    """{path: class} as VPT writes it; the last seventh of the training images for validation, or the authors' list."""
    train = list(official["train"].items())
    cut = len(train) if "val" in official else -(len(train) // 7)
    parts = {"train": dict(train[:cut]), "val": official.get("val") or dict(train[cut:]), "test": official["test"]}
    return {
        f"{split}.json": json.dumps({prefix + path: number_of(label) for path, label in entries.items()}).encode()
        for split, entries in parts.items()
    }


PREFIXES = {"cub": "", "nabirds": "", "dogs": "Images/", "cars": "", "flowers": "jpg/"}


@pytest.mark.parametrize("task", tasks(PREFIXES, ("dogs", "flowers")))
def test_vpt_s_lists(task: str, sets: dict[str, Any], tmp_path: Path) -> None:
    """In a zip with a folder for each set, as a folder of three files; classes of any numbers become 0, 1, ..."""
    folder, official = sets[task]
    files = vpt_lists(official, PREFIXES[task], lambda label: 3 * label + 7)
    name = dataset_of(f"fgvc/{task}")["aliases"][0]
    pack(tmp_path / "fgvc_split.zip", {f"json/{name}/{file}": data for file, data in files.items()})
    home = build(task, folder, tmp_path / "a", lists=tmp_path / "fgvc_split.zip")
    there = listed(home)
    train = list(official["train"])
    assert list(there["train"]) == train[: len(there["train"])] and there["test"] == official["test"]
    known = official["train"] | official.get("val", {})
    assert all(there["val"][path] == known[path] for path in there["val"])
    loaded = load_task(dataset_of(f"fgvc/{task}"), data_root=tmp_path / "a", cache_root=tmp_path / "cache", size=16)
    assert not any("not by VPT" in note for note in loaded.notes)
    (tmp_path / "lists").mkdir()
    for file, data in files.items():
        (tmp_path / "lists" / file).write_bytes(data)
    assert listed(build(task, folder, tmp_path / "b", lists=tmp_path / "lists")) == there


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"val.json": b"[1, 2]"}, r"val.json is not"),
        ({"test.json": b"{"}, r"test.json is not"),
        ({"val.json": b'{"cars_train/00001.jpg": [7]}'}, "a class is a number or a name, not [7]"),
        ({"val.json": b'{"cars_train/00001.jpg": 5}'}, "has the class 5, which train.json has not"),
        ({"val.json": b'{"cars_train/99999.jpg": 7}'}, "which the archive does not have"),
        ({"val.json": b'{"../../etc/passwd": 7}'}, "which the archive does not have"),
        ({"val.json": b'{"cars_test/00001.jpg": 7}'}, "in test.json and in another list"),
        ({"val.json": None}, "has no val.json for fgvc/cars"),
    ],
)
def test_bad_lists_are_refused(
    change: dict[str, bytes | None], said: str, sets: dict[str, Any], tmp_path: Path
) -> None:
    folder, official = sets["cars"]
    files = vpt_lists(official, "", lambda label: 3 * label + 7) | change
    with zipfile.ZipFile(tmp_path / "lists.zip", "w") as archive:
        for name, data in files.items():
            if data is not None:
                archive.writestr(name, data)
    ask: dict[str, Any] = {"archive": folder, "verify": False, "lists": tmp_path / "lists.zip"}
    (done,) = prepare_data({"cars": dataset_of("fgvc/cars")}, "raw", tmp_path / "out", **ask)
    assert done.state == "failed" and said in done.text, done.text
    assert not (tmp_path / "out" / "fgvc" / "Stanford-cars").exists()


def test_the_five_as_one_option() -> None:
    names = ["fgvc/cub", "fgvc/nabirds", "fgvc/flowers", "fgvc/dogs", "fgvc/cars"]
    assert dataset_members("fgvc/all") == names
    sizes = {name: [dataset_of(name)["sizes"][part] for part in ("train", "val", "test")] for name in names}
    # VPT's table of the sets; the training sets of their authors hold 5994, 23929, 2040, 12000 and 8144 pictures
    assert {name: sum(found[:2]) for name, found in sizes.items()} == dict(
        zip(names, (5994, 23929, 2040, 12000, 8144), strict=True)
    )
    assert [found[2] for found in sizes.values()] == [5794, 24633, 6149, 8580, 8041]


def test_a_run(sets: dict[str, Any], tmp_path: Path) -> None:
    """recipe petl100, protocol best_val: the val list chooses, the test list is looked at once."""
    build("cars", sets["cars"][0], tmp_path)
    words = ["dataset=fgvc/cars", "method=linear", "backbone=vit_mini", "recipe.epochs=1", "threads=1"]
    words += [f"paths.data={tmp_path}", f"paths.results={tmp_path}/r", f"paths.cache={tmp_path}/c"]
    pipeline.run(settings_of(words))
    (file,) = (tmp_path / "r").rglob("*.json")
    record = json.loads(file.read_text())
    assert [record["config"][key]["name"] for key in ("recipe", "protocol")] == ["petl100", "best_val"]
    assert any("not by VPT" in note for note in record["notes"])
