"""300 seeded corruptions of lists and images: each a clean error, or harmless, proved by looking at the images.

Every image is painted in the colour of its label, so a wrong label would show. The one thing that cannot be told is a
test label changed to another in range: VTAB-1K's lists have no published hash. It changes the task's own hash, and is
reported if the set was used before.
"""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from miniatures import dataset_of, make_vtab
from PIL import Image

from karst_bench.data import load_task
from karst_bench.errors import UserError

SPLITS = ("train800", "val200", "train800val200", "test")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A miniature EuroSAT (10 classes): red = 25 * label."""
    root = tmp_path_factory.mktemp("sound")
    home = make_vtab(root, "vtab/eurosat")
    for split in SPLITS:
        for line in (home / f"{split}.txt").read_text().splitlines():
            path, label = line.split()
            Image.new("RGB", (24, 20), (int(label) * 25, 60, 120)).save(home / path)
    return root


def flip(rng: random.Random, data: bytearray) -> None:
    for _ in range(rng.randint(1, 4)):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def overwrite(rng: random.Random, data: bytearray) -> None:
    start = rng.randrange(len(data))
    data[start : start + rng.randint(1, 12)] = rng.randbytes(rng.randint(1, 12))


def cut(rng: random.Random, data: bytearray) -> None:
    del data[rng.randrange(len(data)) :]


def cut_out(rng: random.Random, data: bytearray) -> None:
    start = rng.randrange(len(data))
    del data[start : start + rng.randint(1, 40)]


def insert(rng: random.Random, data: bytearray) -> None:
    start = rng.randrange(len(data))
    data[start:start] = rng.choice([b"\r\n", b"\n\n", b"\x00", b"../", b"/", b" ", b"9", b"\xef\xbb\xbf", b"-", b"\t"])


def repeat(rng: random.Random, data: bytearray) -> None:
    start = rng.randrange(len(data))
    data[start:start] = data[start : start + rng.randint(1, 80)]


def rewrite_ends(rng: random.Random, data: bytearray) -> None:
    data[:] = b"\xef\xbb\xbf" + bytes(data).replace(b"\n", rng.choice([b"\r\n", b"\n\n", b" \n"]))


LIST_CHANGES: list[Callable[[random.Random, bytearray], None]] = [
    flip, overwrite, cut, cut_out, insert, repeat, rewrite_ends,
]  # fmt: skip
IMAGE_CHANGES: list[Callable[[random.Random, bytearray], None]] = [flip, overwrite, cut, cut_out, insert, repeat]


def corrupt(rng: random.Random, home: Path) -> bool:
    """Spoil one file. Returns whether it was a list."""
    lists = rng.random() < 0.6
    if lists:
        file = home / f"{rng.choice(SPLITS)}.txt"
    else:
        file = rng.choice(sorted((home / "images").rglob("*.jpg")))
        fate = rng.randrange(10)
        if fate == 0:
            file.unlink()
            return False
        if fate == 1:
            file.write_bytes(b"")
            return False
        if fate == 2:
            file.unlink()
            file.mkdir()
            return False
    data = bytearray(file.read_bytes())
    rng.choice(LIST_CHANGES if lists else IMAGE_CHANGES)(rng, data)
    file.write_bytes(data)
    return lists


def read_all(root: Path, cache: Path) -> tuple[str, dict[str, tuple[torch.Tensor, torch.Tensor]]]:
    task = load_task(dataset_of("vtab/eurosat"), data_root=root, cache_root=cache, size=8)
    splits = {name: task.splits[name] for name in SPLITS}
    everything = {name: (split.labels, split.read(torch.arange(len(split))).images) for name, split in splits.items()}
    return task.list_sha256, everything


@pytest.mark.parametrize("block", [pytest.param(n, marks=[pytest.mark.slow] if n >= 6 else []) for n in range(15)])
def test_corruptions_end_in_an_error_or_do_no_harm(block: int, sound: Path, tmp_path: Path) -> None:
    true_hash, truth = read_all(sound, tmp_path / "cache")
    for seed in range(20 * block, 20 * block + 20):
        rng = random.Random(seed)
        root = tmp_path / str(seed)
        shutil.copytree(sound, root)
        lists = corrupt(rng, root / "vtab-1k" / "eurosat")
        try:
            found_hash, found = read_all(root, tmp_path / str(seed) / "cache")
        except UserError as error:
            assert str(root) in str(error) and "\n" not in str(error), f"seed {seed}: {error}"
            continue
        for name, (labels, images) in found.items():
            if not lists:
                assert torch.equal(labels, truth[name][0]), f"seed {seed}: labels of {name}"
                continue
            painted = (images[:, 0].float().mean(dim=(1, 2)) / 25).round().long()
            right = torch.equal(painted, labels)
            assert right or (name == "test" and found_hash != true_hash), f"seed {seed}: a wrong label in {name}"


def test_a_changed_test_label_is_reported_where_the_set_was_used_before(sound: Path, tmp_path: Path, lines: list[str]) -> None:
    root = tmp_path / "data"
    shutil.copytree(sound, root)
    dataset = dataset_of("vtab/eurosat")
    load_task(dataset, data_root=root, cache_root=tmp_path / "cache", size=8)
    assert len(lines) == 1
    file = root / "vtab-1k" / "eurosat" / "test.txt"
    first, rest = file.read_text().split("\n", 1)
    path, label = first.split()
    file.write_text(f"{path} {(int(label) + 1) % 10}\n{rest}")
    task = load_task(dataset, data_root=root, cache_root=tmp_path / "cache", size=8)
    assert "changed since they were first used" in lines[-1] and lines[-1].endswith(task.notes[-1])
