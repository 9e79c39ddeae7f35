"""The split rule: the check values that were computed when it was verified against VPT's published lists."""

import hashlib
import os
from importlib import resources
from pathlib import Path

import pytest
from miniatures import VTAB, dataset_of

from karst_bench.data.builders.expected import EUROSAT, RESISC45, expected_labels
from karst_bench.data.sources.vtab_splits import (
    FULL_SIZES,
    SPLITS,
    hash_order,
    keys_of_splits,
    slices,
    source_split,
    split_keys,
)
from karst_bench.errors import UserError

LISTS = os.environ.get("KARST_BENCH_FEWSHOT_LISTS")


def sun(part: str) -> list[str]:
    folder = resources.files("tensorflow_datasets") / "image_classification"
    return (folder / f"sun397_tfds_{part}.txt").read_text("utf-8").split()


def keys_of(task: str) -> tuple[list[int | str], list[int | str]]:
    """All keys that train800 and val200 are chosen from, synthesised."""
    if task in ("cifar100", "svhn", "smallnorb_azimuth", "dsprites_location"):
        sizes = FULL_SIZES[task]
        return list(range(sizes["train"])), list(range(sizes[source_split(task, "val200")]))
    if task == "clevr_count":
        keys: list[int | str] = [f"CLEVR_train_{n:06d}.png" for n in range(70000)]
        return keys, keys
    if task == "camelyon":
        return [f"train_{n}" for n in range(262144)], [f"valid_{n}" for n in range(32768)]
    if task == "eurosat":
        keys = [f"{name}_{name}_{n}.jpg" for name, count in EUROSAT.items() for n in range(1, count + 1)]
        return keys, keys
    if task == "resisc45":
        keys = [f"{name}_{name}_{n:03d}.jpg" for name in RESISC45 for n in range(1, 701)]
        return keys, keys
    assert task == "sun397"
    return list(sun("tr")), list(sun("va"))


# first three of train800, first three of val200, and the first 16 hex digits of the SHA-256 over all, joined by newlines
CHECKS = {
    "cifar100": ("16399 1680 47917", "13431 9237 17462", "5b25ee0661c3bc4a", "93377e439662509b"),
    "svhn": ("16399 1680 47917", "21145 64736 23870", "901fe4f6d4f65bc8", "36ae944d2e322a4f"),
    "smallnorb_azimuth": ("16399 1680 17307", "23018 16932 19084", "438b845e2bd4a468", "d9fca0e85af945f0"),
    "dsprites_location": ("16399 634903 206287", "220697 85843 84902", "54130b46ffd22579", "86005e8c04783edc"),
    "clevr_count": (
        "CLEVR_train_043876.png CLEVR_train_033421.png CLEVR_train_062025.png",
        "CLEVR_train_035084.png CLEVR_train_029360.png CLEVR_train_004525.png", "5dc1033102716488", "9a9150228251ccef",
    ),
    "camelyon": (
        "train_251464 train_132287 train_133786", "valid_3270 valid_10310 valid_20603", "c1122cb7e413b8b3", "b3998b44bc8423a1",
    ),
    "eurosat": (
        "Forest_Forest_687.jpg Residential_Residential_188.jpg HerbaceousVegetation_HerbaceousVegetation_1056.jpg",
        "SeaLake_SeaLake_804.jpg Forest_Forest_1554.jpg River_River_2237.jpg", "7dac90dec1b73063", "5c9a3ab3702faf20",
    ),
    "sun397": (
        "/r/rope_bridge/sun_biqflnsoednmhvce.jpg /t/tower/sun_avxiyhlcnzjayhrk.jpg /b/bedroom/sun_aakynfpfyupnkxtn.jpg",
        "/b/boathouse/sun_armmkazxnlvxglwr.jpg /r/restaurant_patio/sun_afhgmyopzixkqugi.jpg"
        " /m/martial_arts_gym/sun_bscsqejghqvnukmw.jpg", "bbfe318c912bf278", "ed3f4079a4f342a7",
    ),
    "resisc45": (
        "dense_residential_dense_residential_068.jpg palace_palace_207.jpg golf_course_golf_course_450.jpg",
        "cloud_cloud_238.jpg roundabout_roundabout_303.jpg dense_residential_dense_residential_278.jpg",
        "7c42d524f21f8a68", "2a2bb0da49b4bb17",
    ),
}  # fmt: skip


def sha(keys: list[int | str]) -> str:
    return hashlib.sha256("\n".join(map(str, keys)).encode()).hexdigest()[:16]


@pytest.mark.parametrize("task", CHECKS)
def test_the_check_values(task: str) -> None:
    train, val = keys_of(task)
    sources = source_split(task, "train800"), source_split(task, "val200")
    found = keys_of_splits(task, dict(zip(sources, (train, list(reversed(val))), strict=True)))
    chosen = found["train800"], found["val200"]
    first = tuple(" ".join(str(key) for key in keys[:3]) for keys in chosen)
    assert (*first, *map(sha, chosen)) == CHECKS[task]
    assert [len(keys) for keys in chosen] == [800, 200]
    if task == "dsprites_location":  # of 737,280 keys, in about a second
        assert len(found["test"]) == 73728
    else:
        assert split_keys(task, "val200", val) == found["val200"]


@pytest.mark.skipif(not LISTS, reason="KARST_BENCH_FEWSHOT_LISTS names no folder of the published few-shot lists")
def test_the_check_value_of_pets() -> None:
    folder = Path(str(LISTS)) / "oxford-pets" / "annotations"
    names = [line.split()[0] for file in ("train_meta.list", "val_meta.list") for line in (folder / file).open()]
    assert sha(split_keys("pets", "train800", names)) == "d25e517477870861"
    assert sha(split_keys("pets", "val200", names)) == "2205e2e97bbd6520"


@pytest.mark.parametrize("task", VTAB)
def test_the_rule_gives_the_published_sizes(task: str) -> None:
    """Out of the original sets' sizes come the published ones."""
    cut = slices(task, FULL_SIZES[task])
    assert {split: end - first for split, (_, first, end) in cut.items()} == dataset_of(f"vtab/{task}")["sizes"]


def test_a_small_set_is_cut_into_disjoint_parts() -> None:
    """60 % and 80 % of 20 are 12 and 16; the first part ends where the second begins."""
    keys = hash_order("train", range(20))
    parts = [split_keys("eurosat", split, range(20)) for split in SPLITS]
    assert parts == [keys[:12], keys[12:16], keys[16:]]
    assert split_keys("smallnorb_azimuth", "val200", range(8)) == hash_order("test", range(8))[:4]


def test_strings_and_numbers_are_hashed_as_tfds_does() -> None:
    """Against tensorflow-datasets' own hasher."""
    from tensorflow_datasets.core import hashing

    hasher = hashing.Hasher("validation")
    for keys in (["b/a.jpg", "a\\c.jpg", "x"], list(range(50))):
        assert hash_order("validation", keys) == sorted(keys, key=hasher.hash_key)


def test_labels_where_keys_tell_them() -> None:
    counts = expected_labels("resisc45", "test")
    assert counts is not None and counts.total() == 6300 and len(counts) == 45
    assert expected_labels("cifar100", "test") is None
    # keys of the check values, by hand: Forest is 1, HerbaceousVegetation 2, Residential 7 of EuroSAT's ten
    eurosat = expected_labels("eurosat", "train800")
    assert eurosat is not None and eurosat.total() == 800 and set(eurosat) == set(range(10))


def test_what_is_not_there() -> None:
    with pytest.raises(UserError, match="no VTAB-1K task"):
        split_keys("imagenet", "test", [])
    with pytest.raises(UserError, match="no such split"):
        split_keys("dtd", "train", [])
    with pytest.raises(UserError, match="occur twice"):
        split_keys("dtd", "test", ["a", "a"])
