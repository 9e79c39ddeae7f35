"""dataset.source=hf: parquet files of both layouts give the pixels of the folder; damaged ones are refused."""

import io
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from miniatures import VTAB, dataset_of
from originals import draw, stored, tasks
from PIL import Image

from karst_bench.config.compose import settings_of
from karst_bench.data import find_task, load_task
from karst_bench.data.builders import prepare_data, status
from karst_bench.data.builders.to_parquet import write_parquet
from karst_bench.data.sources.parquet import ParquetSource, ParquetTable, split_files
from karst_bench.data.sources.parquet_keys import KEYS
from karst_bench.data.sources.parquet_places import Snapshot, repositories
from karst_bench.data.sources.vtab_splits import SPLITS, source_split
from karst_bench.data.task import Split, Task
from karst_bench.errors import UserError

SIZE = 16
PICTURE = stored(draw(1))[0]


def load(task: str, source: str, root: Path, cache: Path) -> Task:
    return load_task(dataset_of(f"vtab/{task}", source=source), data_root=root, cache_root=cache, size=SIZE)


def assert_same(one: Task, other: Task, splits: tuple[str, ...]) -> None:
    for split in splits:
        a, b = one.splits[split], other.splits[split]
        assert torch.equal(a.labels, b.labels)
        index = torch.arange(len(a))
        assert torch.equal(a.read(index).images, b.read(index).images)


def home_of(task: str, built: Path) -> Path:
    return built / "vtab-1k" / dataset_of(f"vtab/{task}")["folder"]


def webp(data: bytes) -> bytes:
    out = io.BytesIO()
    with Image.open(io.BytesIO(data)) as image:
        image.convert("RGB").save(out, "WEBP", lossless=True, method=0, quality=0)
    return out.getvalue()


def full_layout(task: str, built: Path, root: Path, *, keys: bool) -> None:
    """The original set as webp and cls, one folder a split, the examples' names beside them; without them the task's own
    training and test images, as such copies are made.

    Only the chosen examples are written: train800 and val200 of a split are then all of it, in another order.
    """
    home, config = home_of(task, built), dataset_of(f"vtab/{task}")
    named: dict[str, list[tuple[str, bytes, int]]] = {}
    for line in (home / "keys.tsv").read_text().splitlines():
        split, number, key = line.split("\t")
        path, label = (home / f"{split}.txt").read_text().splitlines()[int(number)].split()
        source = source_split(task, split) if keys else split if split == "test" else "train"
        named.setdefault(source, []).append((key, webp((home / path).read_bytes()), int(label)))
    for source, rows in named.items():
        rows.sort(key=lambda row: row[0])
        columns: dict[str, list[Any]] = {"webp": [row[1] for row in rows], "cls": [row[2] for row in rows]}
        columns["__key__"] = [row[0] if keys else f"s{number:07d}" for number, row in enumerate(rows)]
        path = root / "parquet" / config["folder"] / source / "0000.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(pa.table(columns), path, row_group_size=50)


@pytest.mark.parametrize("task", tasks(VTAB, ("cifar100", "dtd", "kitti_distance", "smallnorb_azimuth")))
def test_splits_of_vtab_give_the_pixels_of_the_folder(task: str, built: Path, tmp_path: Path) -> None:
    folder = write_parquet(dataset_of(f"vtab/{task}"), home_of(task, built), tmp_path)
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nconfigs:") and all(
        f"split: {split}\n    path: data/{split}-*" in card for split in SPLITS
    )
    given = load(task, "hf", tmp_path, tmp_path / "cache")
    assert given.source == "hf" and given.encoding == "png" and "local folder" in given.notes[0]
    assert_same(given, load(task, "folder", built, tmp_path / "cache"), (*SPLITS, "train800val200"))
    (line,) = status({task: dataset_of(f"vtab/{task}")}, tmp_path)
    assert (line.source, line.home) == ("hf", str(folder))


@pytest.mark.parametrize("task", tasks(sorted(KEYS), ("dtd", "clevr_count", "camelyon")))
def test_the_original_set_with_names_gives_the_rule_s_images(task: str, built: Path, tmp_path: Path) -> None:
    """Chosen anew from the names, not from the order of the rows; and said not to be the published set in its size."""
    full_layout(task, built, tmp_path, keys=True)
    given, folder = load(task, "hf", tmp_path, tmp_path / "cache"), load(task, "folder", built, tmp_path / "cache")
    assert given.own_split and any("split has" in note for note in given.notes)
    # the miniature's splits were cut from more examples than the 1000, where val200 begins at a percentage of all
    whole = tuple(name for name in SPLITS if len(given.splits[name]) == len(folder.splits[name]))
    assert_same(given, folder, whole)
    assert "test" in whole or source_split(task, "test") == "train"


def pictures(split: Split) -> list[bytes]:
    """Labels and pixels, in an order of their own."""
    images = split.read(torch.arange(len(split))).images
    return sorted(bytes([int(label) % 256]) + image.numpy().tobytes() for label, image in zip(split.labels, images, strict=True))


@pytest.mark.parametrize("task", tasks(VTAB, ("cifar100", "dtd", "smallnorb_elevation")))
def test_without_names_it_serves_for_the_test_set_alone(task: str, built: Path, tmp_path: Path) -> None:
    full_layout(task, built, tmp_path, keys=False)
    given, folder = load(task, "hf", tmp_path, tmp_path / "cache"), load(task, "folder", built, tmp_path / "cache")
    assert pictures(given.splits["test"]) == pictures(folder.splits["test"]) and given.encoding == "native"
    for split in ("train800", "val200", "train800val200"):
        with pytest.raises(UserError, match=r"order in which VTAB-1K chooses 1000 cannot be shown"):
            given.splits[split]


def test_the_command_writes_them_and_keeps_the_bytes(originals: Any, tmp_path: Path) -> None:
    config = dataset_of("vtab/dtd")
    (done,) = prepare_data({"dtd": config}, "raw", tmp_path, archive=originals["dtd"][0], to="hf", verify=False)
    assert "parquet files in" in done.text and done.home is not None
    table = pq.read_table(tmp_path / "parquet/dtd/data/train800-00000-of-00001.parquet")
    assert table.column("image")[0].as_py()["bytes"] == (done.home / "images/train800/000000.png").read_bytes()
    assert b'"_type": "Image"' in (table.schema.metadata or {})[b"huggingface"]
    again = prepare_data({"dtd": config}, "raw", tmp_path, archive=originals["dtd"][0], to="hf", verify=False)
    assert again[0].state == "present"
    manifest = done.home / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"files_sha256": "', '"files_sha256": "another'))
    with pytest.raises(UserError, match=r"parquet/dtd: holds parquet files of another copy"):
        write_parquet(config, done.home, tmp_path)


@pytest.mark.parametrize("task", ["cifar100"])
def test_the_hub_s_cache_is_read_offline(
    task: str, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> None:
    """The commit that was read stands in the record, and how to pin it is said once."""
    import huggingface_hub

    folder = write_parquet(dataset_of(f"vtab/{task}"), home_of(task, built), tmp_path)
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = tmp_path / "hub" / "snapshots" / commit
    snapshot.parent.mkdir(parents=True)
    folder.rename(snapshot)
    asked: list[tuple[str, str | None, bool]] = []

    def download(repository: str, *, revision: str | None, local_files_only: bool = False, **_: object) -> str:
        asked.append((repository, revision, local_files_only))
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    read = f"parquet: bramtoula/vtab_cifar100 at revision {commit}"
    given = load(task, "hf", tmp_path / "empty", tmp_path / "cache")
    assert given.notes[0] == f"{read}, not pinned"
    assert f"vtab/cifar100: {read}, not pinned; +dataset.hf.revision={commit} keeps it" in lines
    words = ["dataset=vtab/cifar100", "dataset.source=hf", f"+dataset.hf.revision={commit}"]
    dataset = settings_of(words).as_config()["dataset"]
    pinned = load_task(dataset, data_root=tmp_path / "empty", cache_root=tmp_path / "cache", size=SIZE)
    assert pinned.notes[0] == read and pinned.list_sha256 == given.list_sha256
    assert asked == [("bramtoula/vtab_cifar100", None, True), ("bramtoula/vtab_cifar100", commit, True)]


def test_nothing_there_and_no_network_says_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def unreachable(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(UserError, match=r"bramtoula/vtab_cifar100.*no connection.*karst-bench data prepare.*to=hf"):
        load("cifar100", "hf", tmp_path, tmp_path / "cache")
    with pytest.raises(UserError, match="for vtab sets"):
        find_task(dataset_of("fewshot/pets", source="hf"), data_root=tmp_path)


def test_a_series_of_files_with_a_hole_is_refused(tmp_path: Path) -> None:
    """What a download that was broken off leaves would be a smaller test set."""
    home = tmp_path / "parquet" / "cifar"
    home.mkdir(parents=True)
    for number in (0, 2):
        pq.write_table(pa.table({"image": [PICTURE], "label": [number]}), home / f"test-{number:05d}-of-00003.parquet")
    with pytest.raises(UserError, match="holds 2 of the 3 files of test"):
        load("cifar100", "hf", tmp_path, tmp_path / "cache")


def test_other_rows_of_the_same_files_are_another_fingerprint(tmp_path: Path) -> None:
    """It is what the cache keeps pictures under."""
    pq.write_table(pa.table({"image": [PICTURE] * 3, "label": [0, 1, 0]}), tmp_path / "train-00000-of-00001.parquet")
    snapshot = Snapshot(tmp_path, "", "", "image", "label")
    table = ParquetTable(split_files(snapshot)["train"], snapshot)
    found = {ParquetSource("set", "train800", table, rows, 2).fingerprint() for rows in ([0, 1], [1, 0], [0, 2], [0, 1, 2])}
    assert len(found) == 4


def test_a_setting_that_there_is_not(tmp_path: Path) -> None:
    dataset = dataset_of("vtab/cifar100", source="hf", hf={"commit": "0" * 40})
    with pytest.raises(UserError, match=r"dataset\.hf\.commit: no such setting.*revision"):
        find_task(dataset, data_root=tmp_path)


def test_the_map_names_every_task() -> None:
    found = repositories()
    assert set(found) == set(VTAB)
    for entry in (entry for entries in found.values() for entry in entries):
        assert {"repository", "image", "label"} <= set(entry) and entry["repository"].count("/") == 1
        assert re.fullmatch(r"[0-9a-f]{40}", entry.get("revision", "0" * 40))


def damage(data: bytes, kind: str) -> bytes:
    return {"a web page": b"<!DOCTYPE html><title>sign in</title>", "cut short": data[:-20], "nothing": b""}[kind]


@pytest.mark.parametrize("kind", ["a web page", "cut short", "nothing"])
def test_what_is_no_parquet_file_is_named(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "parquet" / "cifar" / "train800-00000-of-00001.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.table({"image": [PICTURE], "label": [1]}), path)
    path.write_bytes(damage(path.read_bytes(), kind))
    with pytest.raises(UserError, match=r"train800-00000-of-00001\.parquet: no readable parquet file"):
        load("cifar100", "hf", tmp_path, tmp_path / "cache")


def test_what_claims_too_much_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row group of zeros that would fill the memory; more rows than there are bytes. The bound is lowered here."""
    from karst_bench.data.sources import parquet

    path = tmp_path / "parquet" / "cifar" / "train800-00000-of-00001.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.table({"image": [bytes(1 << 16)] * 8, "label": [1] * 8}), path, compression="zstd", use_dictionary=False)
    monkeypatch.setattr(parquet, "LARGEST_GROUP", 1 << 18)
    with pytest.raises(UserError, match=r"parquet: a row group claims more than"):
        load("cifar100", "hf", tmp_path, tmp_path / "cache")
    pq.write_table(pa.table({"image": [b""] * 60000, "label": [1] * 60000}), path, compression="zstd")
    with pytest.raises(UserError, match=r"parquet: claims more rows than it has bytes"):
        load("cifar100", "hf", tmp_path, tmp_path / "cache")


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"image": [b"x"], "class": [1]}, r"no column label.*\+dataset\.hf\.image"),
        ({"image": [b"x"], "label": ["cat"]}, "other things than integers"),
        ({"image": [b"x"], "label": [True]}, "other things than integers"),
        ({"image": [PICTURE], "label": [1000]}, "label 1000, outside 0..99"),
        ({"image": [b"not an image"], "label": [1]}, "no readable image"),
        ({"image": [None], "label": [1]}, "holds no image bytes"),
    ],
)
def test_bad_columns_are_refused(columns: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = tmp_path / "parquet" / "cifar" / "train800-00000-of-00001.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.table(columns), path)
    with pytest.raises(UserError, match=said) as raised:
        _ = load("cifar100", "hf", tmp_path, tmp_path / "cache").splits["train800"]
    assert "train800-00000-of-00001.parquet" in str(raised.value) or "000000" in str(raised.value)
