"""Which images of a set are VTAB-1K's: slices of each split in the order of a hash of its examples' keys.

tensorflow-datasets orders the examples of a split by md5(split name + key), as a 128-bit number, and VTAB-1K (Zhai et al.
2019, task_adaptation/data) takes the first 800 of one split, 200 from a percentage of one, and a test split or its tail.
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from karst_bench.errors import UserError

Key = int | str
SPLITS = ("train800", "val200", "test")


def _rules(train: str, val: str, val_from: int, test: str, test_from: int = 0) -> dict[str, dict[str, Any]]:
    return {
        "train800": {"split": train, "from_pct": 0, "count": 800},
        "val200": {"split": val, "from_pct": val_from, "count": 200},
        "test": {"split": test, "from_pct": test_from},
    }


_TRAIN_TEST = _rules("train", "train", 90, "test")
_THREE = _rules("train", "validation", 0, "test")
_CLEVR = _rules("train", "train", 90, "validation")  # CLEVR's own test set has no labels
_TRAIN_ONLY = _rules("train", "train", 60, "train", 80)
_DSPRITES = _rules("train", "train", 80, "train", 90)
_NORB = _rules("train", "test", 0, "test", 50)
RULES: dict[str, dict[str, dict[str, Any]]] = {
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


def slices(rules: Mapping[str, Any], sizes: Mapping[str, int]) -> dict[str, tuple[str, int, int]]:
    """{train800 | val200 | test: (split, first, end)}; first = from_pct * N // 100, N = sizes[split].

    A slice holds `count` examples, or all that follow; it ends at the latest where the next one of the same split
    begins, so that sets too small for 800 + 200 images are still cut into disjoint parts.
    """
    first = {name: rules[name]["from_pct"] * sizes[rules[name]["split"]] // 100 for name in SPLITS}
    found = {}
    for name in SPLITS:
        split = rules[name]["split"]
        count = rules[name].get("count", sizes[split])
        later = [first[other] for other in SPLITS if rules[other]["split"] == split and first[other] > first[name]]
        found[name] = (split, first[name], min([first[name] + count, sizes[split], *later]))
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
    return str(_rule_of(task)[split]["split"])


def split_keys(task: str, split: str, keys: Iterable[Key]) -> list[Key]:
    """The keys of train800, val200 or test of a VTAB-1K task, in the order of their hash.

    task: the option's last part (cifar100, ...). keys: of all examples of source_split(task, split), in any order.
    Raises: UserError for a task or split that is none, or a key that occurs twice.
    """
    rules = _rule_of(task)
    if split not in SPLITS:
        raise UserError(f"split={split}: no such split of {task}; choose from {', '.join(SPLITS)}")
    salt = rules[split]["split"]
    ordered = hash_order(salt, keys)
    if len(set(ordered)) < len(ordered):
        raise UserError(f"{task}: {len(ordered) - len(set(ordered))} keys of its {salt} split occur twice")
    # a slice is bounded only by slices of its own split, so the sizes of other splits do not matter here
    sizes = {rules[name]["split"]: len(ordered) if rules[name]["split"] == salt else 0 for name in SPLITS}
    _, first, end = slices(rules, sizes)[split]
    return ordered[first:end]


def _rule_of(task: str) -> dict[str, dict[str, Any]]:
    name = task.removeprefix("vtab/")
    if name not in RULES:
        raise UserError(f"task={task}: no VTAB-1K task; choose from {', '.join(RULES)}")
    return RULES[name]
