"""Archives that are damaged or mean harm: refused by name, nothing outside the target, nothing half-written."""

import gzip
import io
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from miniatures import dataset_of
from originals import Original, tasks

from karst_bench.data.builders import archive as reading
from karst_bench.data.builders import prepare_data
from karst_bench.data.builders.archive import members, open_member
from karst_bench.errors import UserError

Originals = dict[str, tuple[Path, Original]]


def hostile_tar(path: Path, change: Callable[[tarfile.TarFile], None]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        info = tarfile.TarInfo("dtd/labels/train1.txt")
        info.size = 6
        archive.addfile(info, io.BytesIO(b"a/b.jp"))
        change(archive)


def add(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> Callable[[tarfile.TarFile], None]:
    def change(archive: tarfile.TarFile) -> None:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, target
        archive.addfile(info, io.BytesIO())

    return change


HOSTILE_TARS = {
    "a name upwards": (add("../../evil.jpg"), "leaves the folder"),
    "an absolute name": (add("/etc/evil.jpg"), "leaves the folder"),
    "a Windows name": (add("C:\\evil.jpg"), "leaves the folder"),
    "a name upwards by backslashes": (add("dtd\\..\\..\\evil.jpg"), "leaves the folder"),
    "a control character": (add("dtd/a\nb.jpg"), "leaves the folder"),
    "a symbolic link": (add("dtd/images", tarfile.SYMTYPE, "/etc"), "link or a device"),
    "a hard link": (add("dtd/x.jpg", tarfile.LNKTYPE, "dtd/labels/train1.txt"), "link or a device"),
    "a device": (add("dtd/null", tarfile.CHRTYPE), "link or a device"),
    "a pipe": (add("dtd/pipe", tarfile.FIFOTYPE), "link or a device"),
}


def snapshot(root: Path) -> dict[str, int]:
    return {path.relative_to(root).as_posix(): path.stat().st_size for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("case", HOSTILE_TARS)
def test_hostile_tars_are_refused(case: str, tmp_path: Path) -> None:
    change, said = HOSTILE_TARS[case]
    path = tmp_path / "in" / "dtd-r1.0.1.tar.gz"
    path.parent.mkdir()
    hostile_tar(path, change)
    before = snapshot(tmp_path / "in")
    (done,) = prepare_data({"dtd": dataset_of("vtab/dtd")}, "raw", tmp_path / "out", archive=path.parent, verify=False)
    assert done.state == "failed" and said in done.text and str(path) in done.text
    assert snapshot(tmp_path / "in") == before and not (tmp_path / "out" / "vtab-1k" / "dtd").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_hostile_zips_are_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("2750/Forest/Forest_1.jpg")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    for name, said in ((zipfile.ZipInfo("../2750/Forest/Forest_1.jpg"), "leaves the folder"), (link, "is a link")):
        path = tmp_path / "EuroSAT.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, b"/etc/passwd")
        (done,) = prepare_data({"e": dataset_of("vtab/eurosat")}, "raw", tmp_path / "out", archive=path, verify=False)
        assert done.state == "failed" and said in done.text and str(path) in done.text


def test_links_in_an_unpacked_folder_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "NWPU-RESISC45" / "airplane"
    folder.mkdir(parents=True)
    (folder / "airplane_001.jpg").symlink_to("/etc/passwd")
    (done,) = prepare_data({"r": dataset_of("vtab/resisc45")}, "raw", tmp_path / "out", archive=folder.parent)
    assert done.state == "failed" and "is a link" in done.text


def test_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds lowered, so that the test itself need not unpack gigabytes."""
    monkeypatch.setattr(reading, "SLACK", 1 << 16)
    monkeypatch.setattr(reading, "RATIO", 20)
    zeros = bytes(1 << 21)
    bomb = tmp_path / "bomb.tar.gz"
    with tarfile.open(bomb, "w:gz") as archive:
        info = tarfile.TarInfo("a.bin")
        info.size = len(zeros)
        archive.addfile(info, io.BytesIO(zeros))
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("a.bin", zeros)
    for path in (bomb, tmp_path / "bomb.zip"):
        with pytest.raises(UserError, match=rf"{path.name}.*not a file to trust"):
            list(members(path))
    lone = tmp_path / "bomb.gz"
    lone.write_bytes(gzip.compress(zeros))
    with pytest.raises(UserError, match=r"bomb\.gz: unpacks to more"):
        reading.unpack_gzip(lone, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_member_that_lies_about_its_size(tmp_path: Path) -> None:
    path = tmp_path / "big.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("list.txt", b"x" * 1000)
    with pytest.raises(UserError, match="claims 1000 bytes, more than the 10"):
        next(iter(members(path))).read(10)
    with pytest.raises(UserError, match=r"big\.zip: holds no other\.txt"):
        open_member(path, "other.txt")


def test_a_web_page_is_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "dtd-r1.0.1.tar.gz"
    path.write_bytes(b"<!DOCTYPE html><title>Quota exceeded</title>")
    for verify in (True, False):
        (done,) = prepare_data({"d": dataset_of("vtab/dtd")}, "raw", tmp_path / "out", archive=path, verify=verify)
        assert done.state == "failed" and "web page" in done.text and str(path) in done.text


def test_another_file_than_the_published_one(originals: Originals, tmp_path: Path) -> None:
    """Refused as it is; with verify=false built, and every record says so."""
    from karst_bench.data import load_task

    folder, config = originals["dtd"][0], dataset_of("vtab/dtd")
    (done,) = prepare_data({"d": config}, "raw", tmp_path, archive=folder)
    assert done.state == "failed" and "is published with 625239812 bytes" in done.text and "verify=false" in done.text
    assert prepare_data({"d": config}, "raw", tmp_path, archive=folder, verify=False)[0].ready
    task = load_task(config, data_root=tmp_path, cache_root=tmp_path / "cache", size=16)
    assert any("differ from the published ones: dtd-r1.0.1.tar.gz" in note for note in task.notes)


def test_a_download_is_checked_and_announced(
    originals: Originals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import dataclasses
    import logging

    from karst_bench import files
    from karst_bench.data.builders.dtd import Dtd

    source = originals["dtd"][0] / "dtd-r1.0.1.tar.gz"
    right = dataclasses.replace(
        Dtd.archives[0], url=source.as_uri(), size=source.stat().st_size, sha256=files.sha256(source)
    )
    monkeypatch.setattr(Dtd, "archives", (dataclasses.replace(right, sha256="0" * 64),))
    (done,) = prepare_data({"d": dataset_of("vtab/dtd")}, "raw", tmp_path)
    assert (
        done.state == "failed" and "what came was removed" in done.text and not list((tmp_path / "archives").iterdir())
    )
    monkeypatch.setattr(Dtd, "archives", (right,))
    with caplog.at_level(logging.INFO, "karst_bench"):
        assert prepare_data({"d": dataset_of("vtab/dtd")}, "raw", tmp_path)[0].state == "built"
    assert "fetching 1 file," in caplog.text and "kB" in caplog.text


@pytest.mark.parametrize(
    ("task", "said"), [("resisc45", "OneDrive"), ("retinopathy", "kaggle"), ("sun397", "404 since 2025")]
)
def test_what_has_no_address_comes_with_instructions(task: str, said: str, tmp_path: Path) -> None:
    (done,) = prepare_data({task: dataset_of(f"vtab/{task}")}, "raw", tmp_path)
    assert done.state == "failed" and said in done.text and "archive=FOLDER" in done.text


def test_the_pickled_cifar_is_not_read(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "cifar-100-python.tar.gz", "w:gz") as archive:
        info = tarfile.TarInfo("cifar-100-python/train")
        archive.addfile(info, io.BytesIO())
    path = tmp_path / "cifar-100-python.tar.gz"
    (done,) = prepare_data({"c": dataset_of("vtab/cifar100")}, "raw", tmp_path / "out", archive=path, verify=False)
    assert done.state == "failed" and "is a pickle and is not read" in done.text


# What a change may do to an archive and still be read rightly: members that nothing asks for. So: built, or refused by
# name; never another error, never something half-built.
DAMAGED = ("cifar100", "svhn", "eurosat", "pets", "kitti_distance", "clevr_count", "dmlab", "smallnorb_azimuth", "dtd",
           "dsprites_location")  # fmt: skip


@pytest.mark.parametrize("task", tasks(DAMAGED, ("cifar100", "dtd", "kitti_distance")))
def test_thirty_damaged_copies(task: str, originals: Originals, tmp_path: Path) -> None:
    """Cut short, bytes overwritten, a block removed: 30 seeded ways, 300 over all tasks."""
    rng = np.random.default_rng(len(task))
    folder, config = originals[task][0], dataset_of(f"vtab/{task}")
    names = sorted(path for path in folder.iterdir() if path.is_file())
    refused = 0
    for case in range(30):
        root = tmp_path / str(case)
        (root / "in").mkdir(parents=True)
        for path in names:
            (root / "in" / path.name).write_bytes(path.read_bytes())
        victim = root / "in" / names[int(rng.integers(len(names)))].name
        data = bytearray(victim.read_bytes())
        at = int(rng.integers(len(data)))
        if case % 3 == 0:
            del data[at:]
        elif case % 3 == 1:
            data[at : at + 16] = rng.bytes(len(data[at : at + 16]))
        else:
            del data[at : at + 200]
        victim.write_bytes(bytes(data))
        (done,) = prepare_data({task: config}, "raw", root / "out", archive=root / "in", verify=False)
        home = root / "out" / "vtab-1k" / config["folder"]
        assert home.exists() == (done.state == "built")
        if done.state == "failed":
            refused += 1
            assert "archive" in done.text or "damaged" in done.text or str(root / "in") in done.text, done.text
    assert refused >= 10  # most cuts are fatal


@pytest.mark.parametrize(
    ("option", "ask", "said"),
    [
        ("vtab/dtd", {"source": "torrent"}, "choose from raw, zip, tfds"),
        ("vtab/dtd", {"to": "csv"}, "only hf"),
        ("vtab/dtd", {"encoding": "webp"}, "choose png"),
        ("vtab/dtd", {"archive": "nowhere"}, "archive=nowhere: no such file or folder$"),
        ("vtab/dtd", {"archive": "hub"}, "taken with source=zip alone"),
        ("vtab/dtd", {"lists": "json.zip"}, "names none of them"),
        ("vtab/dtd", {"source": "zip", "encoding": "jpeg75"}, "left as they are stored"),
        ("vtab/dtd", {"source": "tfds", "archive": "x"}, "archive=x: tensorflow-datasets fetches"),
        ("vtab/dtd", {"source": "tfds", "to": "hf"}, "to=hf: tensorflow-datasets fetches"),
        ("fgvc/cub", {"source": "zip"}, "source=zip: is for the tasks of VTAB-1K"),
        ("fgvc/cub", {"to": "hf"}, "to=hf: is for the tasks of VTAB-1K"),
        ("fgvc/cub", {"encoding": "jpeg75"}, "left as they are stored"),
        ("fgvc/cub", {"lists": "json.zip"}, "json.zip: no such file or folder"),
        ("fewshot/pets", {}, "data fewshot"),
    ],
)
def test_options_that_mean_nothing_together(option: str, ask: dict[str, Any], said: str, tmp_path: Path) -> None:
    """Refused before anything is fetched or written, rather than ignored."""
    with pytest.raises(UserError, match=said):
        prepare_data({option: dataset_of(option)}, root=tmp_path, **{"source": "raw"} | ask)
    assert not list(tmp_path.iterdir())
