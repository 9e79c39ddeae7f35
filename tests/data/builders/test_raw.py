"""Original archives to folders: the rule's images with their labels and every pixel, and nothing half-done."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from miniatures import VTAB, dataset_of
from originals import Original, dsprites, tasks
from PIL import Image

from karst_bench.data import load_task
from karst_bench.data.builders import prepare_data, status, sun397
from karst_bench.data.builders.kitti import cut_by_video
from karst_bench.data.decode import jpeg_quality, read_image
from karst_bench.data.setup.audit import audit_task
from karst_bench.data.sources.manifest import read_manifest
from karst_bench.data.sources.vtab_splits import SPLITS, source_split, split_keys

Originals = dict[str, tuple[Path, Original]]


def truth(task: str, found: Original, split: str) -> list[tuple[int | str, int]]:
    """The rule's keys of a split with their labels, from what the test itself put into the archive."""
    source = source_split(task, split)
    if (
        task == "kitti_distance"
    ):  # the archive tells videos; which are drawn is numpy's seed 123 over their sorted names
        videos = sorted({video for video, _ in found.labels})
        random = np.random.RandomState(123)
        test = set(random.choice(videos, 1, replace=False))
        validation = set(random.choice([video for video in videos if video not in test], 1, replace=False))
        part = {"test": test, "validation": validation}.get(source, set(videos) - test - validation)
        labels = {key: label for (video, key), label in found.labels.items() if video in part}
    else:
        labels = {key: label for (name, key), label in found.labels.items() if name == source}
    return [(key, labels[key]) for key in split_keys(task, split, labels)]


def pixels_of(found: Original, key: int | str, source: str) -> np.ndarray:
    exact = found.pixels.get((source, key))
    return exact if exact is not None else next(value for (_, name), value in found.pixels.items() if name == key)


@pytest.mark.parametrize("task", tasks(task for task in VTAB if task not in ("caltech101", "retinopathy")))
def test_every_image_is_the_rule_s(task: str, originals: Originals, built: Path) -> None:
    found, config = originals[task][1], dataset_of(f"vtab/{task}")
    home = built / "vtab-1k" / config["folder"]
    for split in SPLITS:
        expected = truth(task, found, split)
        lines = (home / f"{split}.txt").read_text().splitlines()
        assert [int(line.split()[1]) for line in lines] == [label for _, label in expected]
        for line, (key, _) in zip(lines, expected, strict=True):
            with Image.open(home / line.split()[0]) as image:
                assert (
                    np.array_equal(np.asarray(image), pixels_of(found, key, source_split(task, split)))
                    or task == "sun397"
                )
    joined = [line.split()[1] for line in (home / "train800val200.txt").read_text().splitlines()]
    parts = [line.split()[1] for name in SPLITS[:2] for line in (home / f"{name}.txt").read_text().splitlines()]
    assert joined == parts


@pytest.mark.parametrize("task", tasks(["sun397"]))
def test_sun397_passes_through_jpeg_and_keeps_its_picture(task: str, originals: Originals, built: Path) -> None:
    found, home = originals[task][1], built / "vtab-1k" / "sun397"
    for line, (key, _) in zip(
        (home / "val200.txt").read_text().splitlines(), truth("sun397", found, "val200"), strict=True
    ):
        with Image.open(home / line.split()[0]) as image:
            there = np.asarray(image).astype(int)
        assert np.abs(there - found.pixels["validation", key]).mean() < 12


@pytest.mark.parametrize("task", ["caltech101"])
def test_caltech101_is_cut_by_its_own_seed_and_says_so(
    task: str, originals: Originals, built: Path, tmp_path: Path
) -> None:
    found, config = originals[task][1], dataset_of("vtab/caltech101")
    home = built / "vtab-1k" / "caltech101"
    keys = [line.split("\t") for line in (home / "keys.tsv").read_text().splitlines()]
    train = {key for split, _, key in keys if split != "test"}
    test = {key for split, _, key in keys if split == "test"}
    assert not train & test and len(test) == 2 * 102
    for split in SPLITS:
        labels = [int(line.split()[1]) for line in (home / f"{split}.txt").read_text().splitlines()]
        assert labels == [found.labels["all", key] for name, _, key in keys if name == split]
    loaded = load_task(config, data_root=built, cache_root=tmp_path, size=16)
    assert loaded.own_split and any("sorted listings" in note for note in loaded.notes)
    (line,) = status({"vtab/caltech101": config}, built)
    assert "own split" in line.text and line.origin == "raw" and line.audited


@pytest.mark.parametrize("task", ["retinopathy"])
def test_retinopathy_is_processed_as_btgraham(task: str, originals: Originals, built: Path) -> None:
    found, home = originals[task][1], built / "vtab-1k" / "diabetic_retinopathy"
    for split in SPLITS:
        expected = truth("retinopathy", found, split)
        lines = (home / f"{split}.txt").read_text().splitlines()
        assert [int(line.split()[1]) for line in lines] == [label for _, label in expected]
        with Image.open(home / lines[0].split()[0]) as image:
            array = np.asarray(image).astype(int)
        # a radius of 300, of which 0.9 is kept; outside of the circle the grey of 128
        assert array.shape == (540, 540, 3)
        assert abs(array[:40, :40].mean() - 128) < 1.5 and abs(array[-40:, -40:].mean() - 128) < 1.5
        assert array[200:340, 200:340].std() > 1


@pytest.mark.parametrize("task", tasks(VTAB))
def test_what_is_built_passes_the_audit_and_loads(task: str, built: Path, tmp_path: Path) -> None:
    config = dataset_of(f"vtab/{task}")
    home = built / "vtab-1k" / config["folder"]
    finding = audit_task(config, root=built, home=home, images=True)
    assert finding.sound and finding.encoding == "png"
    manifest = read_manifest(home)
    assert manifest is not None and manifest.lists_sha256 == finding.list_sha256
    lines = (home / "files.sha256").read_text().splitlines()
    assert len(lines) == sum(manifest.splits.values())
    digest, name = lines[-1].split("  ")
    assert hashlib.sha256((home / name).read_bytes()).hexdigest() == digest
    loaded = load_task(config, data_root=built, cache_root=tmp_path, size=24)
    images = loaded.splits["train800"].read(torch.arange(2)).images
    assert images.shape == (2, 3, 24, 24) and loaded.encoding == "png" and loaded.list_sha256 == finding.list_sha256


@pytest.mark.parametrize("task", tasks(VTAB, ("cifar100", "smallnorb_azimuth", "dsprites_location", "dtd")))
def test_the_other_encoding(
    task: str, originals: Originals, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """jpeg75 is Pillow's default, of three channels, of the same images in the same order."""
    config = dataset_of(f"vtab/{task}")
    monkeypatch.setattr(sun397, "lists_folder", lambda: originals[task][0])
    (done,) = prepare_data({task: config}, "raw", tmp_path, "jpeg75", originals[task][0], verify=False)
    assert done.state == "built" and done.home is not None
    lines = (done.home / "test.txt").read_text()
    assert lines.replace(".jpg", ".png") == (built / "vtab-1k" / config["folder"] / "test.txt").read_text()
    first = done.home / lines.split()[0]
    assert jpeg_quality(first) == 75
    exact = read_image(built / "vtab-1k" / config["folder"] / first.relative_to(done.home).with_suffix(".png"))
    given = read_image(first)
    assert given.shape == exact.shape and not torch.equal(given, exact)
    with Image.open(first) as image:
        assert image.mode == "RGB"


def test_a_second_run_does_nothing(originals: Originals, tmp_path: Path) -> None:
    config = dataset_of("vtab/dtd")
    ask: dict[str, Any] = {"archive": originals["dtd"][0], "verify": False}
    assert prepare_data({"dtd": config}, "raw", tmp_path, **ask)[0].state == "built"
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    (done,) = prepare_data({"dtd": config}, "raw", tmp_path, **ask)
    assert done.state == "present" and before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    (other,) = prepare_data({"dtd": config}, "raw", tmp_path, "jpeg75", **ask)
    assert other.state == "failed" and "holds it as png" in other.text


def test_an_interrupted_run_resumes(
    originals: Originals, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written and is whole is kept; a picture that was cut by the interruption is written again."""
    from karst_bench.data.builders import from_raw

    config, calls = dataset_of("vtab/dtd"), []
    whole = from_raw._made

    def dying(*args: Any) -> bytes:
        calls.append(args)
        if len(calls) >= 60:  # threads: two may append before either counts
            raise KeyboardInterrupt
        return whole(*args)

    ask: dict[str, Any] = {"archive": originals["dtd"][0], "verify": False}
    monkeypatch.setattr(from_raw, "_made", dying)
    with pytest.raises(KeyboardInterrupt):
        prepare_data({"dtd": config}, "raw", tmp_path, **ask)
    assert not (tmp_path / "vtab-1k" / "dtd").exists()
    left = sorted((tmp_path / "vtab-1k" / ".dtd.building" / "images").rglob("*.png"))
    assert left
    left[0].write_bytes(b"cut")
    calls.clear()
    monkeypatch.setattr(from_raw, "_made", lambda *args: calls.append(args) or whole(*args))
    assert prepare_data({"dtd": config}, "raw", tmp_path, **ask)[0].state == "built"
    assert len(calls) == 3 * 47 - len(left) + 1
    for name in ("files.sha256", "manifest.json", "test.txt", "keys.tsv"):
        assert (tmp_path / "vtab-1k/dtd" / name).read_text() == (built / "vtab-1k/dtd" / name).read_text()
    assert sorted(path.name for path in (tmp_path / "vtab-1k").iterdir()) == [".dtd.lock", "dtd"]


def test_a_folder_that_is_something_else_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said before anything is fetched, not after hours when it stands in the way."""
    from karst_bench.data.builders import obtain

    monkeypatch.setattr(obtain, "download", lambda *_, **__: pytest.fail("fetched"))
    (tmp_path / "vtab-1k" / "dtd").mkdir(parents=True)
    (tmp_path / "vtab-1k" / "dtd" / "mine.txt").write_text("x")
    (done,) = prepare_data({"dtd": dataset_of("vtab/dtd")}, "raw", tmp_path)
    assert done.state == "failed" and "vtab-1k/dtd: is there, but is no finished set" in done.text


def test_another_process_was_quicker(originals: Originals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of two waits for the first, and finds the set in place."""
    from karst_bench.data.builders import from_raw

    ask: dict[str, Any] = {"archive": originals["dtd"][0], "verify": False}
    config, check = {"dtd": dataset_of("vtab/dtd")}, from_raw.check

    def slow(*args: Any, **options: Any) -> Any:
        monkeypatch.setattr(from_raw, "check", check)
        assert prepare_data(config, "raw", tmp_path, **ask)[0].state == "built"
        return check(*args, **options)

    monkeypatch.setattr(from_raw, "check", slow)
    (done,) = prepare_data(config, "raw", tmp_path, **ask)
    assert done.state == "present" and not (tmp_path / "vtab-1k" / ".dtd.building").exists()


@pytest.mark.parametrize("task", ["dsprites_location"])
def test_dsprites_as_hdf5_gives_the_same(task: str, built: Path, tmp_path: Path) -> None:
    pytest.importorskip("h5py", reason="one of dSprites' two files is HDF5")
    dsprites(tmp_path, task, "hdf5")
    (done,) = prepare_data({"d": dataset_of(f"vtab/{task}")}, "raw", tmp_path / "out", archive=tmp_path, verify=False)
    assert done.home is not None, done.text
    there = built / "vtab-1k" / "dsprites_loc" / "files.sha256"
    assert (done.home / "files.sha256").read_text() == there.read_text()


def test_unpacked_folders_are_accepted(originals: Originals, built: Path, tmp_path: Path) -> None:
    import tarfile

    with tarfile.open(originals["dtd"][0] / "dtd-r1.0.1.tar.gz") as archive:
        archive.extractall(tmp_path, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    for place in (tmp_path, tmp_path / "dtd"):
        (done,) = prepare_data({"dtd": dataset_of("vtab/dtd")}, "raw", tmp_path / place.name / "out", archive=place)
        assert done.home is not None, done.text
        assert (done.home / "files.sha256").read_text() == (built / "vtab-1k/dtd/files.sha256").read_text()


def test_kitti_is_cut_by_video() -> None:
    """At the true number of videos too: a tenth for test, a tenth for validation, none in two parts."""
    parts = cut_by_video({f"drive_{n:04d}": [2 * n, 2 * n + 1] for n in range(138)})
    assert [len(parts[name]) // 2 for name in ("train", "validation", "test")] == [112, 13, 13]
    assert sorted(number for numbers in parts.values() for number in numbers) == list(range(276))


def test_sun397_s_own_lists_are_those_of_tensorflow_datasets() -> None:
    sizes = {split: len(sun397.Sun397.listed(split)) for split in ("train", "validation", "test")}
    assert sizes == {"train": 76127, "validation": 10875, "test": 21750}
    assert set(sun397.Sun397.listed("test").values()) == set(range(397))
