"""Which images of a set are VTAB-1K's: slices of each split in the order of a hash of its examples' keys.

tensorflow-datasets orders the examples of a split by md5(split name + key), as a 128-bit number, and VTAB-1K (Zhai et al.
2019, task_adaptation/data) takes the first 800 of one split, 200 from a percentage of one, and a test split or its tail.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from karst_bench.errors import UserError

Key = int | str
SPLITS = ("train800", "val200", "test")


@dataclass(frozen=True)
class SplitRule:
    """A slice of a split of the original set: from `from_pct` percent of its examples on, `count` of them or (None) all."""

    split: str
    from_pct: int = 0
    count: int | None = None


def _rules(train: str, val: str, val_from: int, test: str, test_from: int = 0) -> dict[str, SplitRule]:
    return {
        "train800": SplitRule(train, 0, 800),
        "val200": SplitRule(val, val_from, 200),
        "test": SplitRule(test, test_from),
    }


_TRAIN_TEST = _rules("train", "train", 90, "test")
_THREE = _rules("train", "validation", 0, "test")
_CLEVR = _rules("train", "train", 90, "validation")  # CLEVR's own test set has no labels
_TRAIN_ONLY = _rules("train", "train", 60, "train", 80)
_DSPRITES = _rules("train", "train", 80, "train", 90)
_NORB = _rules("train", "test", 0, "test", 50)
# The one home of the rule: raw archives, parquet files with keys and prepared sets of tensorflow-datasets are cut by it.
RULES: dict[str, dict[str, SplitRule]] = {
    "cifar100": _TRAIN_TEST,
    "caltech101": _TRAIN_TEST,
    "svhn": _TRAIN_TEST,
    "pets": _rules("train", "train", 80, "test"),
    "clevr_count": _CLEVR,
    "clevr_distance": _CLEVR,
    "eurosat": _TRAIN_ONLY,
    "resisc45": _TRAIN_ONLY,
    "dsprites_location": _DSPRITES,
    "dsprites_orientation": _DSPRITES,
    "smallnorb_azimuth": _NORB,
    "smallnorb_elevation": _NORB,
    **dict.fromkeys(("dtd", "flowers102", "sun397", "camelyon", "retinopathy", "dmlab", "kitti_distance"), _THREE),
}
# Examples in each split of the original sets, as tensorflow-datasets prepares them (sun397: two files cannot be read).
FULL_SIZES: dict[str, dict[str, int]] = {
    "cifar100": {"train": 50000, "test": 10000},
    "caltech101": {"train": 3060, "test": 6084},
    "dtd": {"train": 1880, "validation": 1880, "test": 1880},
    "flowers102": {"train": 1020, "validation": 1020, "test": 6149},
    "pets": {"train": 3680, "test": 3669},
    "svhn": {"train": 73257, "test": 26032},
    "sun397": {"train": 76127, "validation": 10875, "test": 21750},
    "camelyon": {"train": 262144, "validation": 32768, "test": 32768},
    "eurosat": {"train": 27000},
    "resisc45": {"train": 31500},
    "retinopathy": {"train": 35126, "validation": 10906, "test": 42670},
    "clevr_count": {"train": 70000, "validation": 15000},
    "clevr_distance": {"train": 70000, "validation": 15000},
    "dmlab": {"train": 65550, "validation": 22628, "test": 22735},
    "kitti_distance": {"train": 6347, "validation": 423, "test": 711},
    "dsprites_location": {"train": 737280},
    "dsprites_orientation": {"train": 737280},
    "smallnorb_azimuth": {"train": 24300, "test": 24300},
    "smallnorb_elevation": {"train": 24300, "test": 24300},
}


def slices(task: str, sizes: Mapping[str, int]) -> dict[str, tuple[str, int, int]]:
    """{train800 | val200 | test: (split, first, end)} of a task; first = from_pct * N // 100, N = sizes[split].

    A slice holds `count` examples, or all that follow; it ends at the latest where the next one of the same split
    begins, so that sets too small for 800 + 200 images are still cut into disjoint parts.
    Raises: UserError for a task that is none.
    """
    rules = _rule_of(task)
    first = {name: rules[name].from_pct * sizes[rules[name].split] // 100 for name in SPLITS}
    found = {}
    for name in SPLITS:
        split, count = rules[name].split, rules[name].count
        later = [first[other] for other in SPLITS if rules[other].split == split and first[other] > first[name]]
        own = sizes[split] if count is None else first[name] + count
        found[name] = (split, first[name], min([own, sizes[split], *later]))
    return found


def hash_order(salt: str, keys: Iterable[Key]) -> list[Key]:
    """The keys by md5(salt + key), ascending: the order on disk of a split named `salt`.

    An int is hashed as its decimal string, a string with / for every backslash.
    """
    start = hashlib.md5(salt.encode(), usedforsecurity=False)

    def digest(key: Key) -> bytes:
        state = start.copy()
        state.update((str(key) if isinstance(key, int) else key.replace("\\", "/")).encode())
        return state.digest()

    return sorted(keys, key=digest)


def source_split(task: str, split: str) -> str:
    """The split of the original set (train | validation | test) that `split` of a VTAB-1K task is cut from."""
    return _rule_of(task)[split].split


def split_keys(task: str, split: str, keys: Iterable[Key]) -> list[Key]:
    """The keys of train800, val200 or test of a VTAB-1K task, in the order of their hash.

    task: the option's last part (cifar100, ...). keys: of all examples of source_split(task, split), in any order.
    Raises: UserError for a task or split that is none, or a key that occurs twice.
    """
    if split not in _rule_of(task):
        raise UserError(f"split={split}: no such split of {task}; choose from {', '.join(SPLITS)}")
    return keys_of_splits(task, {source_split(task, split): keys})[split]


def keys_of_splits(task: str, keys: Mapping[str, Iterable[Key]]) -> dict[str, list[Key]]:
    """{train800 | val200 | test: its keys in the order of their hash}, of those cut from the original splits in `keys`.

    keys: {train | validation | test of the original set: the keys of all its examples}; each is put in order once.
    Raises: UserError for a task that is none, or a key that occurs twice in a split.
    """
    ordered = {salt: hash_order(salt, found) for salt, found in keys.items()}
    for salt, found in ordered.items():
        if len(set(found)) < len(found):
            raise UserError(f"{task}: {len(found) - len(set(found))} keys of its {salt} split occur twice")
    # a slice is bounded only by slices of its own split, so the sizes of other splits do not matter here
    sizes = dict.fromkeys(("train", "validation", "test"), 0) | {salt: len(found) for salt, found in ordered.items()}
    cut = slices(task, sizes)
    return {name: ordered[salt][first:end] for name, (salt, first, end) in cut.items() if salt in ordered}


def _rule_of(task: str) -> dict[str, SplitRule]:
    name = task.removeprefix("vtab/")
    if name not in RULES:
        raise UserError(f"task={task}: no VTAB-1K task; choose from {', '.join(RULES)}")
    return RULES[name]
