"""source=zip: the folders that others distribute, taken over whole, checked and said to be what they are."""

import logging
import zipfile
from pathlib import Path

import pytest
from miniatures import VTAB, dataset_of, make_vtab

from karst_bench.data import load_task
from karst_bench.data.builders import prepare_data
from karst_bench.data.builders.from_zip import COPIES, differences_from_rule
from karst_bench.data.sources.manifest import read_manifest

SOME = ("cifar100", "pets")


def zipped(root: Path, target: Path, top: str = "vtab-1k/", leave: str = "") -> Path:
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted((root / "vtab-1k").rglob("*")):
            name = path.relative_to(root / "vtab-1k").as_posix()
            if path.is_file() and name != leave:
                archive.write(path, top + name)
    return target


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of some tasks as NOAH's script leaves it."""
    root = tmp_path_factory.mktemp("copy")
    for task in SOME:
        make_vtab(root, f"vtab/{task}")
    return root


@pytest.mark.parametrize("top", ["vtab-1k/", "", "data/vtab-1k/"])
def test_a_whole_copy(top: str, copy: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    archive = zipped(copy, tmp_path / "any.zip", top)
    nodes = {f"vtab/{task}": dataset_of(f"vtab/{task}") for task in SOME}
    with caplog.at_level(logging.INFO, "karst_bench"):
        done = prepare_data(nodes, "zip", tmp_path / "out", archive=archive)
    assert [item.state for item in done] == ["built"] * len(nodes), [item.text for item in done]
    assert "stored as jpeg75" in caplog.text
    for config in nodes.values():
        home, there = tmp_path / "out" / "vtab-1k" / config["folder"], copy / "vtab-1k" / config["folder"]
        for path in there.rglob("*"):
            assert path.is_dir() or (home / path.relative_to(there)).read_bytes() == path.read_bytes()
        manifest = read_manifest(home)
        assert manifest is not None and (manifest.source, manifest.encoding) == ("zip", "jpeg75")
        assert "train800 has 8 images, not 800" in manifest.own_split
    task = load_task(next(iter(nodes.values())), data_root=tmp_path / "out", cache_root=tmp_path / "c", size=16)
    assert task.encoding == "jpeg75" and task.own_split


def test_a_copy_that_lacks_tasks(copy: Path, tmp_path: Path) -> None:
    """What is there is taken; what is not is named with what the copy holds."""
    nodes = {task: dataset_of(f"vtab/{task}") for task in ("cifar100", "dtd", "pets")}
    done = prepare_data(nodes, "zip", tmp_path / "out", archive=zipped(copy, tmp_path / "part.zip"))
    assert [item.ready for item in done] == [True, False, True]
    assert "does not hold" in done[1].text and "it holds 2 tasks: cifar, oxford_iiit_pet" in done[1].text


@pytest.mark.slow
def test_a_copy_of_all_tasks(tmp_path: Path) -> None:
    for task in VTAB:
        make_vtab(tmp_path, f"vtab/{task}")
    nodes = {f"vtab/{task}": dataset_of(f"vtab/{task}") for task in VTAB}
    done = prepare_data(nodes, "zip", tmp_path / "out", archive=zipped(tmp_path, tmp_path / "all.zip"))
    assert [item.state for item in done] == ["built"] * 19


def test_a_copy_with_holes_is_refused(copy: Path, tmp_path: Path) -> None:
    config = dataset_of("vtab/cifar100")
    cases = {
        "cifar/images/test/000003.jpg": "lacks 1 files that the lists of vtab-1k/cifar name, first images/test/000003.jpg",
        "cifar/val200.txt": "has no val200.txt",
    }
    for number, (leave, said) in enumerate(cases.items()):
        archive = zipped(copy, tmp_path / f"{number}.zip", leave=leave)
        (done,) = prepare_data({"c": config}, "zip", tmp_path / "out", archive=archive)
        assert done.state == "failed" and said in done.text and str(archive) in done.text
    assert not (tmp_path / "out" / "vtab-1k" / "cifar").exists()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("../../../etc/passwd 3", "leaves the folder"),
        ("images/test/000000.jpg 999", "outside 0..99"),
        ("plan.json 3", "not below images/"),
    ],
)
def test_lists_that_name_other_files(line: str, said: str, copy: Path, tmp_path: Path) -> None:
    folder = copy / "vtab-1k" / "cifar"
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for path in folder.rglob("*"):
            if path.is_file() and path.name != "test.txt":
                archive.write(path, path.relative_to(copy).as_posix())
        archive.writestr("vtab-1k/cifar/test.txt", line + "\n")
        archive.writestr("vtab-1k/cifar/plan.json", "{}")
    (done,) = prepare_data({"c": dataset_of("vtab/cifar100")}, "zip", tmp_path / "out", archive=tmp_path / "x.zip")
    assert done.state == "failed" and said in done.text, done.text
    assert not (tmp_path / "out" / "vtab-1k" / "cifar").exists()


def test_what_is_no_zip(tmp_path: Path) -> None:
    page = tmp_path / "page.zip"
    page.write_text("<html>too many have asked for this file</html>")
    for archive, said in ((page, "is no zip but a web page"), (tmp_path / "none.zip", "no such file"), (
        (tmp_path / "gone.zip").as_uri(), "cannot be fetched"
    )):  # fmt: skip
        (done,) = prepare_data({"c": dataset_of("vtab/cifar100")}, "zip", tmp_path / "out", archive=archive)
        assert done.state == "failed" and said in done.text
    nodes = {task: dataset_of(f"vtab/{task}") for task in ("cifar100", "dtd")}
    second = prepare_data(nodes, "zip", tmp_path / "out", archive=page)[1]
    assert second.state == "failed" and "not without the zip" in second.text  # and it is not fetched a second time
    assert set(COPIES) == {"hub", "drive"}


def test_labels_are_held_against_the_rule() -> None:
    """Of three tasks the rule's labels are known without any archive: as many of each class, in any order."""
    from karst_bench.data.builders.expected import expected_labels

    config = dataset_of("vtab/resisc45")
    rows = {}
    for split in ("train800", "val200", "test"):
        counts = expected_labels("resisc45", split)
        assert counts is not None
        rows[split] = [("images/x.jpg", label) for label in reversed(list(counts.elements()))]
    assert differences_from_rule(config, rows) == []
    path, label = rows["val200"][0]
    rows["val200"][0] = (path, (label + 1) % 45)
    assert differences_from_rule(config, rows) == ["val200: 1 labels are not those of the images that the rule chooses"]
