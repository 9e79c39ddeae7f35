"""Sets of one's own: every form they lie in, what is drawn, what is refused, and what binds a record to the pictures."""

import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from miniatures import image
from omegaconf import OmegaConf
from PIL import Image

from karst_bench.cli.app import main
from karst_bench.config.compose import settings_of
from karst_bench.config.option_files import option_config
from karst_bench.config.tuned import backbone_facts, table_path
from karst_bench.data import load_task
from karst_bench.data.sources.own import split_rows, write_lists_of
from karst_bench.data.task import Task
from karst_bench.errors import UserError
from karst_bench.own_sets import SPLITS

NAMES = ("ash", "birch tree", "cedar")
BASE = option_config("dataset", "folder")


def paint(folder: Path, count: int = 5, names: tuple[str, ...] = NAMES, start: int = 0) -> None:
    rng = np.random.default_rng(start)
    for name in names:
        for number in range(start, start + count):
            image(folder / name / f"{number:03d}.jpg", rng, 12, 16)


def make(root: Path, form: str) -> Path:
    """The same 3 x 10 pictures in one of the forms; what dataset.root is."""
    if form == "divided":
        for split, count, start in (("train", 5, 0), ("val", 2, 5), ("test", 3, 7)):
            paint(root / split, count, start=start)
        return root
    if form == "train only":
        paint(root / "Training", 10)
        return root
    paint(root, 10)
    rows = [(path.relative_to(root).as_posix(), path.parent.name) for path in sorted(root.rglob("*.jpg"))]
    if form == "csv":
        text = "\r\n".join(["\ufeffPath,Label", *(f"{path},{name}".replace("/", "\\") for path, name in rows)])
        (root / "list.csv").write_bytes(text.encode())
        return root / "list.csv"
    if form == "split csv":
        split = {number: "train" if number < 5 else "val" if number < 7 else "test" for number in range(10)}
        lines = [f"{split[i % 10]},./{path},{name}" for i, (path, name) in enumerate(rows)]
        (root / "list.csv").write_text("\n".join(["split,path,label", *lines]) + "\n")
        return root / "list.csv"
    if form == "lists":
        for split, numbers in (("train", range(5)), ("val", range(5, 7)), ("test", range(7, 10))):
            lines = [f"{p} {NAMES.index(name)}" for i, (p, name) in enumerate(rows) if i % 10 in numbers]
            (root / f"{split}.txt").write_text("\n".join(lines) + "\n")
        (root / "classes.txt").write_text("\n".join(NAMES) + "\n")
    return root


FORMS = ("plain", "divided", "train only", "csv", "split csv", "lists")


def dataset_at(root: Path, *words: str) -> dict[str, Any]:
    return settings_of(["dataset=folder", f"dataset.root={root}", *words]).as_config()["dataset"]


def task_at(root: Path, cache: Path, *words: str, canvas: float | None = None) -> Task:
    return load_task(dataset_at(root, *words), data_root=cache, cache_root=cache, size=8, canvas=canvas)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_task(form: str, tmp_path: Path) -> None:
    root = make(tmp_path / "my trees", form)
    dataset = dataset_at(root)
    assert (dataset["classes"], dataset["label_names"]) == (3, list(NAMES))
    assert dataset["name"] == ("own/list" if "csv" in form else "own/my_trees")
    task = task_at(root, tmp_path / "c")
    sizes = {name: len(task.splits[name]) for name in (*SPLITS, "trainval")}
    given = form in ("divided", "split csv", "lists")
    counts = (15, 6, 9, 21) if given else (18, 6, 6, 24)
    assert sizes == dict(zip((*SPLITS, "trainval"), counts, strict=True))
    assert task.own_split != given and all(line.startswith("own split: ") for line in task.notes)
    for split in task.splits.values():
        assert len(set(Counter(split.labels.tolist()).values())) == 1  # every class in its proportion
    assert task.splits["trainval"].read(torch.arange(20)).images.shape == (20, 3, 8, 8)
    assert task.encoding == "jpeg75" and task.pixels_sha256 == task.images_sha256 and task.pixels_sha256


def test_labels_are_the_folders_in_order(tmp_path: Path) -> None:
    for label, name in enumerate(NAMES):
        for number in range(4):
            (tmp_path / "s" / name / "deeper").mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (9, 9), (80 * label, 0, 255)).save(tmp_path / "s" / name / "deeper" / f"{number}.png")
    task = task_at(tmp_path / "s", tmp_path / "c")
    for split in task.splits.values():
        red = split.read(torch.arange(len(split))).images[:, 0].float().mean(dim=(1, 2)) / 80
        assert torch.equal(red.round().long(), split.labels)


def test_numbers_are_classes_in_their_order(tmp_path: Path) -> None:
    paint(tmp_path, 1, ("a",))
    paint(tmp_path, 12, ("a",))
    rows = [f"a/{number:03d}.jpg,{(1, 2, 10)[number % 3]}" for number in range(12)]
    (tmp_path / "n.csv").write_text("path,label\n" + "\n".join(rows) + "\n")
    assert dataset_at(tmp_path / "n.csv")["label_names"] == ["1", "2", "10"]


def test_shots_limit_and_seed(tmp_path: Path) -> None:
    paint(tmp_path / "s", 20)
    cache = tmp_path / "c"

    def rows(*words: str) -> dict[str, set[str]]:
        from karst_bench.data.sources.own import read_own

        dataset = dataset_at(tmp_path / "s", *words)
        parts, _ = split_rows(read_own(dataset).rows, dataset)
        return {name: {row.path for row in part} for name, part in parts.items()}

    whole, few, limited, other = rows(), rows("dataset.shots=2"), rows("dataset.limit=15"), rows("dataset.split_seed=1")
    assert whole["test"] == few["test"] == limited["test"] != other["test"]  # what is reported stays what it is
    assert few["train"] <= whole["train"] and (len(few["train"]), len(few["val"])) == (6, 6)
    assert (len(limited["train"]), len(limited["val"])) == (12, 3) and not limited["val"] & limited["train"]
    assert rows() == whole and rows("dataset.limit=1000")["test"] == whole["test"]
    shots = task_at(tmp_path / "s", cache, "dataset.shots=2")
    assert "trainval" not in shots.splits and any("shots=2" in line for line in shots.notes)
    ids = {task_at(tmp_path / "s", cache, *words).list_sha256 for words in ([], ["dataset.shots=2"], ["dataset.limit=15"])}
    assert len(ids) == 3


def test_crops_are_taken_from_larger_pictures(tmp_path: Path) -> None:
    paint(tmp_path / "s", 5)
    task = task_at(tmp_path / "s", tmp_path / "c", canvas=2.0)
    assert task.splits["trainval"].read(torch.arange(12)).images.shape[-2:] == (16, 16)
    assert task.splits["val"].read(torch.arange(3)).images.shape[-2:] == (8, 8)


def test_what_is_no_picture_is_passed_over_and_told(tmp_path: Path, lines: list[str]) -> None:
    paint(tmp_path / "s", 5)
    (tmp_path / "s" / "ash" / "notes.md").write_text("# ash\n")
    (tmp_path / "s" / "ash" / ".DS_Store").write_bytes(b"\0")
    (tmp_path / "s" / "ash" / "000.jpg").rename(tmp_path / "s" / "ash" / "no suffix")
    task = task_at(tmp_path / "s", tmp_path / "c")
    assert sum(len(task.splits[name]) for name in SPLITS) == 15
    assert any("1 files are no pictures" in line and "ash/notes.md" in line for line in (*lines, *task.notes))
    (tmp_path / "s" / "ash" / "broken.jpg").write_text("<html>")
    with pytest.raises(UserError, match=r"broken\.jpg: not a readable image"):
        broken = task_at(tmp_path / "s", tmp_path / "c")
        _ = [broken.splits[name] for name in SPLITS]


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ("nothing", "there is nothing"), ("empty", "no folder in it is a class"), ("one class", "1 class;"),
        ("empty class", "no picture in it"), ("foreign class", "a class that train has not"), ("two trains", "are both train"),
        ("vtab", "VTAB-1K's lists"), ("one picture a class", "would have no image"), ("shared", "share 1 image"),
        ("header", "name the columns: path,label"), ("no label", "line 3 has no label"), ("bad split", "the split 'holdout'"),
        ("outside", "leaves the CSV's folder"), ("twice", "stands there twice"), ("latin", "no CSV in UTF-8"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_set_is_a_sentence(made: str, said: str, tmp_path: Path) -> None:
    root = tmp_path / "s"
    if made != "nothing":
        paint(root, 1 if made == "one picture a class" else 4, NAMES[:1] if made == "one class" else NAMES)
    csvs = {"header": b"file,class\n", "no label": b"path,label\nash/000.jpg,a\nash/001.jpg,\n",
            "latin": "path,label\nä,b\n".encode("latin1"),
            "bad split": b"path,label,split\nash/000.jpg,a,holdout\n", "outside": b"path,label\n../x.jpg,a\nash/000.jpg,b\n",
            "twice": b"path,label\nash/000.jpg,a\n./ash/000.jpg,b\n"}  # fmt: skip
    if made in csvs:
        root = root / "l.csv"
        root.write_bytes(csvs[made])
    if made == "empty":
        shutil.rmtree(root)
        root.mkdir()
    if made == "empty class":
        (root / "zelkova").mkdir()
    if made in ("foreign class", "two trains"):
        shutil.copytree(root, root / "train", ignore=lambda *_: ["train"])
        paint(root / ("val" if made == "foreign class" else "training"), 1, ("yew",))
    if made == "vtab":
        (root / "train800.txt").write_text("a 0\n")
    if made == "shared":
        make(root / "d", "divided")
        root = root / "d"
        (root / "test/ash/again.jpg").hardlink_to(root / "train/ash/000.jpg")
    with pytest.raises(UserError, match=said):
        task_at(root, tmp_path / "c")


@pytest.mark.parametrize(
    ("word", "said"),
    [("dataset.shots=0", "shots=0"), ("dataset.limit=1.5", "limit=1.5"), ("dataset.val_share=1", "val_share=1"),
     ("dataset.name=vtab/dtd", "a set of the suite"), ("dataset.classes=2", "classes=2, but .* has 3: ash, birch tree, cedar")],
)  # fmt: skip
def test_values_that_cannot_be_are_refused(word: str, said: str, tmp_path: Path) -> None:
    paint(tmp_path / "s", 4)
    with pytest.raises(UserError, match=said):
        dataset_at(tmp_path / "s", word)
    with pytest.raises(UserError, match="give one of them"):
        dataset_at(tmp_path / "s", "dataset.shots=1", "dataset.limit=10")
    with pytest.raises(UserError, match=r"needs dataset\.root"):
        settings_of(["dataset=folder"])


def test_other_pictures_are_another_fingerprint(tmp_path: Path) -> None:
    paint(tmp_path / "s", 5)
    before = task_at(tmp_path / "s", tmp_path / "c")
    paint(tmp_path / "s", 5, start=0)
    assert task_at(tmp_path / "s", tmp_path / "c").pixels_sha256 == before.pixels_sha256  # the same bytes, written anew
    shutil.copyfile(tmp_path / "s/ash/001.jpg", tmp_path / "s/ash/002.jpg")
    after = task_at(tmp_path / "s", tmp_path / "c")
    assert after.pixels_sha256 != before.pixels_sha256 and after.list_sha256 == before.list_sha256


def test_lists_are_written_as_they_are_split_and_read_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paint(tmp_path / "s", 10)
    drawn = task_at(tmp_path / "s", tmp_path / "c")
    assert main(["data", "lists", f"root={tmp_path / 's'}"]) == 0
    assert "train.txt: 18 lines" in capsys.readouterr().out
    listed = task_at(tmp_path / "s", tmp_path / "c")
    assert listed.list_sha256 == drawn.list_sha256 and not listed.own_split
    assert dataset_at(tmp_path / "s")["label_names"] == list(NAMES)
    assert main(["data", "lists", f"root={tmp_path / 's'}"]) == 2


def test_a_link_back_up_is_not_followed(tmp_path: Path, lines: list[str]) -> None:
    """It would show each picture under forty names, and those of the other classes as this one's."""
    paint(tmp_path / "s", 5)
    (tmp_path / "s/ash/loop").symlink_to("..")
    (tmp_path / "s/cedar/deep").mkdir()
    (tmp_path / "s/cedar/deep/up").symlink_to("../../cedar")
    (tmp_path / "elsewhere").mkdir()
    image(tmp_path / "elsewhere/more.jpg", np.random.default_rng(9), 12, 16)
    (tmp_path / "s/birch tree/linked").symlink_to(tmp_path / "elsewhere")  # what is not above is followed
    os.mkfifo(tmp_path / "s/birch tree/pipe.jpg")
    task = task_at(tmp_path / "s", tmp_path / "c")
    assert sum(len(task.splits[name]) for name in SPLITS) == 16
    assert any("2 links lead to folders that they lie in" in line and "ash/loop" in line for line in task.notes)


def test_names_of_any_bytes_are_read_and_a_list_that_cannot_hold_one_is_not_written(tmp_path: Path) -> None:
    paint(tmp_path / "s", 10)
    first = tmp_path / "s/ash/000.jpg"
    for name in ("a\nb.jpg", os.fsdecode(b"latin\xe9.jpg"), "back\\slash.jpg"):
        first = first.rename(first.with_name(name))
        assert len(task_at(tmp_path / "s", tmp_path / "c").splits["train"]) == 18
        with pytest.raises(UserError, match="a list cannot hold the path 'ash/"):
            write_lists_of(dataset_at(tmp_path / "s"), tmp_path / "lists")
        assert not (tmp_path / "lists").exists()
    first = first.rename(first.with_name("000.jpg"))
    (tmp_path / "s/ash").rename(tmp_path / "s" / os.fsdecode(b"\xe9"))
    with pytest.raises(UserError, match=r"its bytes are no UTF-8.*rename it"):
        dataset_at(tmp_path / "s")
    (tmp_path / "s" / os.fsdecode(b"\xe9")).rename(tmp_path / "s" / "ash ")
    with pytest.raises(UserError, match="cannot hold the name 'ash ' of a class"):
        write_lists_of(dataset_at(tmp_path / "s"), tmp_path / "lists")


def test_a_class_that_is_not_tested_and_a_turned_picture_are_told(tmp_path: Path, lines: list[str]) -> None:
    paint(tmp_path / "s", 5)
    paint(tmp_path / "s", 1, ("zelkova",))
    with Image.open(tmp_path / "s/ash/000.jpg") as picture:
        turned = Image.Exif()
        turned[0x0112] = 6
        picture.save(tmp_path / "s/ash/000.jpg", exif=turned)
    notes = task_at(tmp_path / "s", tmp_path / "c").notes
    untested = "1 of 4 classes are not tested, as test has no picture of theirs: zelkova"
    for said in (untested, "1 of 16 pictures looked at carry an EXIF"):
        assert any(said in line for line in notes) and any(said in line for line in lines)


def test_the_audit_names_every_picture_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paint(tmp_path / "s", 5)
    assert main(["data", "audit", f"root={tmp_path / 's'}", "tasks=folder"]) == 0
    shutil.copyfile(tmp_path / "s/ash/001.jpg", tmp_path / "s/ash/004.jpg")
    (tmp_path / "s/ash/000.jpg").write_bytes(b"")
    (tmp_path / "s/cedar/003.jpg").write_bytes(b"\0\0\0\x18ftypheic" + bytes(99))
    capsys.readouterr()
    assert main(["data", "audit", f"root={tmp_path / 's'}", "tasks=folder"]) == 1
    out = capsys.readouterr().out
    assert "unreadable: ash/000.jpg" in out and "unreadable: cedar/003.jpg" in out
    assert not (tmp_path / "s/audit.json").exists()
    (tmp_path / "s/ash/000.jpg").write_bytes((tmp_path / "s/ash/001.jpg").read_bytes())
    with pytest.raises(UserError, match=r"HEIC.*save it as JPEG or PNG.*tasks=folder` lists all that is wrong"):
        task = task_at(tmp_path / "s", tmp_path / "c")
        _ = [task.splits[name] for name in SPLITS]


def test_what_was_searched_on_a_set_of_ones_own_is_found_by_its_name(tmp_path: Path) -> None:
    """The tables were asked before the set had one: tuned=ours then ran the defaults."""
    paint(tmp_path / "s", 4)
    words = ("method=lora", "backbone=vit_mini", f"paths.results={tmp_path}")
    facts = backbone_facts(settings_of(list(words)).as_config()["backbone"])
    table = {"source": "a search", "searched": [{"backbone": facts, "values": {"own/s": {"recipe.lr": 0.123}}, "provenance": {}}]}
    path = table_path(tmp_path / "tuned", "ours", "lora")
    path.parent.mkdir(parents=True)
    path.write_text(OmegaConf.to_yaml(OmegaConf.create(table)))
    found = settings_of([*words, "dataset=folder", f"dataset.root={tmp_path / 's'}", "tuned=ours"]).as_config()
    assert (found["dataset"]["name"], found["recipe"]["lr"]) == ("own/s", 0.123)
