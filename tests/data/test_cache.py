"""The decode-once cache: what makes it rebuild, what it survives, and where it does without the disk."""

import errno
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from miniatures import dataset_of, image, make_vtab
from PIL import Image

import karst_bench.data.cache.cache as cache_module
import karst_bench.data.cache.writer as build
from karst_bench.data import load_task
from karst_bench.data.cache.cache import Cache
from karst_bench.data.cache.splits import CachedSplit, StreamSplit
from karst_bench.data.decode import BadImageError
from karst_bench.data.images import FileSource
from karst_bench.data.resize import Resize
from karst_bench.data.sources.lists import ListEntry
from karst_bench.data.task import ArraySplit, ImageBatch, Split
from karst_bench.errors import UserError

GB = 10**9
VIEW = Resize("vtab", 16)


def source(root: Path, count: int = 6, *, name: str = "test", sizes: tuple[int, ...] = (24,)) -> FileSource:
    rng = np.random.default_rng(0)
    rows = [ListEntry(n + 1, f"{n}.png", n % 3) for n in range(count)]
    for row in rows:
        if not (root / row.path).exists():
            image(root / row.path, rng, height=sizes[row.label % len(sizes)])
    return FileSource("set", name, rows, lambda path: root / path, root / "list.txt")


def opened(tmp_path: Path, *, native: bool = False, limit: int = GB, **made: object) -> Split:
    cache = Cache(tmp_path / "cache", limit)
    return cache.open(source(tmp_path / "images", **made), VIEW, native=native)  # type: ignore[arg-type]


def everything(split: Split) -> ImageBatch:
    return split.read(torch.arange(len(split)))


def all_of(split: Split) -> torch.Tensor:
    return everything(split).images


def entry(tmp_path: Path) -> Path:
    (found,) = (path.parent for path in (tmp_path / "cache").glob("*/*/meta.json"))
    return found


def test_decoded_once_and_equal(tmp_path: Path, lines: list[str]) -> None:
    first, second = opened(tmp_path), opened(tmp_path)
    assert isinstance(second, CachedSplit) and torch.equal(all_of(first), all_of(second))
    assert len(lines) == 1 and "decoding 6 images once" in lines[0]
    images = all_of(second)
    images += 1  # a copy, ours to change
    assert torch.equal(all_of(first), all_of(second))
    assert torch.allclose(everything(second).aspects, torch.full((6,), 32 / 24))


@pytest.mark.parametrize("file", ["pixels.npy", "crc32.npy", "aspects.npy", "meta.json"])
@pytest.mark.parametrize("how", ["flip", "cut", "empty", "gone"])
def test_damage_is_seen_and_rebuilt(tmp_path: Path, file: str, how: str, lines: list[str]) -> None:
    before = all_of(opened(tmp_path))
    path = entry(tmp_path) / file
    data = bytearray(path.read_bytes())
    if how == "flip":
        data[-2] ^= 1 if file != "meta.json" else 0xFF
        path.write_bytes(data)
    elif how == "gone":
        path.unlink()
    else:
        path.write_bytes(data[: len(data) // 2] if how == "cut" else b"")
    assert torch.equal(all_of(opened(tmp_path)), before)
    assert "damaged" in lines[1] and "decoding" in lines[2]
    opened(tmp_path)
    assert len(lines) == 3


def test_large_entries_are_checked_as_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "CHECK_AT_ONCE", 0)
    opened(tmp_path)
    pixels = entry(tmp_path) / "pixels.npy"
    data = bytearray(pixels.read_bytes())
    data[-1] ^= 1
    pixels.write_bytes(data)
    split = opened(tmp_path)
    assert split.read(torch.tensor([0, 1])).images.shape == (2, 3, 16, 16)
    with pytest.raises(UserError, match=r"image 5.*start again"):
        all_of(split)
    assert all_of(opened(tmp_path)).shape == (6, 3, 16, 16)


def test_a_replaced_file_is_decoded_anew(tmp_path: Path) -> None:
    opened(tmp_path)
    Image.new("RGB", (32, 24), (9, 9, 9)).save(tmp_path / "images" / "2.png")
    os.utime(tmp_path / "images" / "2.png", ns=(1, 1))
    assert all_of(opened(tmp_path))[2].unique().tolist() == [9]


def test_another_version_is_another_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str]) -> None:
    opened(tmp_path)
    monkeypatch.setattr(cache_module, "DECODER", "99/another")
    opened(tmp_path)
    assert len(lines) == 2 and len(list((tmp_path / "cache").glob("set/*/meta.json"))) == 2
    meta = next((tmp_path / "cache").glob("set/*/meta.json"))
    meta.write_text(meta.read_text().replace('"layout": 1', '"layout": 7'))
    opened(tmp_path)
    monkeypatch.undo()
    opened(tmp_path)
    assert any("layout 7" in line for line in lines)


def test_all_that_decides_on_pixels_is_in_the_key(tmp_path: Path) -> None:
    """Geometry by name, size and canvas; the list's order; the level that is white."""
    views = [VIEW, Resize("vtab", 24), Resize("fs_test", 16), Resize("fs_train", 16), Resize("fs_train", 16, 1.75)]
    plain = source(tmp_path)
    made = [(plain.rows[::-1], None), (plain.rows, 1023.0), (plain.rows, 4095.0)]
    others = [FileSource("set", "test", rows, lambda path: tmp_path / path, tmp_path / "list.txt", white) for rows, white in made]
    keys = [*(cache_module._key(plain, view) for view in views), *(cache_module._key(other, VIEW) for other in others)]
    assert len({*keys}) == len(keys) == 8


def test_small_images_are_kept_small(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", GB)
    big = Resize("vtab", 64)
    kept = cache.open(source(tmp_path / "p"), big, native=True)
    assert np.load(entry(tmp_path) / "pixels.npy").shape == (6, 3, 24, 32)
    full = cache.open(source(tmp_path / "p", name="train"), big, native=False)
    assert all_of(kept).shape == (6, 3, 64, 64)
    assert (all_of(kept).int() - all_of(full).int()).abs().max() <= 1


def test_mixed_sizes_fall_back_to_the_input_size(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", GB)
    split = cache.open(source(tmp_path / "p", sizes=(24, 20, 28)), Resize("vtab", 64), native=True)
    assert np.load(entry(tmp_path) / "pixels.npy").shape == (6, 3, 64, 64) == all_of(split).shape
    assert not list((tmp_path / "cache").glob("*/.*.tmp"))


def test_a_bad_image_leaves_nothing_behind(tmp_path: Path) -> None:
    made = source(tmp_path / "p")
    (tmp_path / "p" / "4.png").write_bytes(b"\x89PNG broken")
    cache = Cache(tmp_path / "cache", GB)
    with pytest.raises(BadImageError, match=r"4\.png.*line 5 of .*list\.txt.*data audit"):
        cache.open(made, VIEW, native=False)
    assert not [path for path in (tmp_path / "cache" / "set").iterdir() if path.name != ".lock"]


def test_a_missing_image_is_named_with_its_line(tmp_path: Path) -> None:
    source(tmp_path / "p")
    (tmp_path / "p" / "3.png").unlink()
    rows = [ListEntry(n + 1, f"{n}.png", 0) for n in range(6)]
    with pytest.raises(BadImageError, match=r"3\.png.*line 4 of.*1 of the 6 files"):
        FileSource("set", "test", rows, lambda path: tmp_path / "p" / path, tmp_path / "list.txt")


def test_a_full_disk_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str]) -> None:

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(build.os, "fsync", full)
    split = opened(tmp_path)
    assert isinstance(split, ArraySplit) and "No space left" in lines[1] and "paths.cache" in lines[1]
    assert not list((tmp_path / "cache" / "set").glob("*test-*"))
    monkeypatch.undo()
    assert torch.equal(all_of(split), all_of(opened(tmp_path)))


def test_the_limit_and_large_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str]) -> None:
    held = opened(tmp_path, limit=10)
    assert isinstance(held, ArraySplit) and "cache_gb=" in lines[0]
    monkeypatch.setattr(cache_module, "KEEP_IN_MEMORY", 0)
    streamed = opened(tmp_path, limit=10)
    assert isinstance(streamed, StreamSplit) and "whenever it is read" in lines[1]
    assert torch.equal(all_of(held), all_of(streamed))
    assert torch.equal(everything(held).aspects, everything(streamed).aspects)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_cache(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir(mode=0o500)
    assert isinstance(opened(tmp_path), ArraySplit)


def test_a_cache_path_that_is_a_file(tmp_path: Path, lines: list[str]) -> None:
    (tmp_path / "cache").write_text("not a folder")
    assert isinstance(opened(tmp_path), ArraySplit) and "cannot" in lines[0]


def test_leftovers_of_a_killed_builder_are_removed(tmp_path: Path) -> None:
    opened(tmp_path)
    made = entry(tmp_path)
    stale = made.with_name(f".{made.name}.999999999.00ff.tmp")
    stale.mkdir()
    (made / "meta.json").unlink()
    opened(tmp_path)
    assert not stale.exists()


def _build(root: str, queue: multiprocessing.Queue) -> None:  # type: ignore[type-arg]
    built: list[Path] = []
    write = cache_module.write_entry
    cache_module.write_entry = lambda entry, *rest: (built.append(entry), write(entry, *rest))[1]
    split = opened(Path(root), count=60)
    queue.put((len(built), int(all_of(split).long().sum())))


@pytest.mark.slow
def test_processes_build_one_entry(tmp_path: Path) -> None:
    source(tmp_path / "images", 60)
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    running = [context.Process(target=_build, args=(str(tmp_path), queue)) for _ in range(2)]
    for process in running:
        process.start()
    found = [queue.get(timeout=300) for _ in running]
    for process in running:
        process.join(timeout=300)
    assert sum(built for built, _ in found) == 1 and len({total for _, total in found}) == 1
    assert entry(tmp_path)


def test_the_second_open_is_quick(tmp_path: Path) -> None:
    """A cached 1000-image task opens in under 0.2 s of processor time (small images; bench_cache.py has 224 px)."""
    make_vtab(tmp_path, "vtab/dtd", train=800, val=200)
    dataset = dataset_of("vtab/dtd")

    def seconds() -> float:
        start = time.process_time()
        task = load_task(dataset, data_root=tmp_path, cache_root=tmp_path / "c", size=16)
        task.splits["train800val200"].read(torch.arange(64))
        return time.process_time() - start

    first = seconds()
    assert min(seconds() for _ in range(3)) < min(0.2, first)
