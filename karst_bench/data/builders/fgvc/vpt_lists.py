"""VPT's split lists, {path: class} in train.json, val.json and test.json; or the same rule with a draw of our own."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from karst_bench.data.builders.archive import members
from karst_bench.data.sources.vtab_splits import hash_order
from karst_bench.errors import UserError

SPLITS = ("train", "val", "test")
SALT = "karst_bench fgvc validation"
Lists = dict[str, dict[str, int]]


def read_lists(path: Path, dataset: Mapping[str, Any], known: set[str]) -> Lists:
    """{split: {path: class from 0}} of VPT's lists for one set.

    path: a folder or zip with the three files, or with a folder of them for each set. known: the paths of the archive's
    pictures. Classes are numbered in the order of their values, as VPT does. Raises: UserError naming what is wrong.
    """
    texts = _texts(path, dataset)
    found: dict[str, dict[str, Any]] = {}
    for split in SPLITS:
        try:
            found[split] = json.loads(texts[split])
            if not isinstance(found[split], dict) or not found[split]:
                raise ValueError("no object of paths and classes")
            if odd := [value for value in found[split].values() if not isinstance(value, int | str)]:
                raise ValueError(f"a class is a number or a name, not {str(odd[0])[:60]}")
        except ValueError as error:
            raise UserError(f"{path}: {split}.json is not {{path: class}} ({error})") from error
    order = {value: number for number, value in enumerate(sorted(set(found["train"].values()), key=_value))}
    lists: Lists = {}
    for split, entries in found.items():
        odd = [value for value in entries.values() if value not in order]
        if odd:
            raise UserError(f"{path}: {split}.json has the class {odd[0]!r}, which train.json has not")
        lists[split] = {_path(name, known, path, split): order[value] for name, value in entries.items()}
    shared = set(lists["test"]) & (set(lists["train"]) | set(lists["val"]))
    if shared:
        raise UserError(f"{path}: {len(shared)} pictures are in test.json and in another list, first {min(shared)}")
    return lists


def _value(value: Any) -> tuple[int, str]:
    text = str(value)
    return (int(text), "") if text.isdecimal() else (1 << 62, text)


def _texts(path: Path, dataset: Mapping[str, Any]) -> dict[str, bytes]:
    names = {name.lower() for name in (dataset["folder"], dataset["task"], *dataset.get("aliases", ()))}
    found: dict[str, bytes] = {}
    for member in members(path):
        parts = member.name.split("/")
        split = parts[-1].removesuffix(".json")
        fits = len(parts) == 1 or parts[-2].lower() in names
        if parts[-1].endswith(".json") and split in SPLITS and fits and split not in found:
            found[split] = member.read()
    absent = [f"{split}.json" for split in SPLITS if split not in found]
    if absent:
        raise UserError(
            f"lists={path}: has no {', '.join(absent)} for {dataset['name']} (in a folder {' or '.join(sorted(names))})"
        )
    return found


def _path(name: str, known: set[str], path: Path, split: str) -> str:
    """The archive's own path for one of the lists, which may begin a folder higher."""
    parts = name.split("/")
    for start in range(len(parts)):
        if "/".join(parts[start:]) in known:
            return "/".join(parts[start:])
    raise UserError(f"{path}: {split}.json names {name[:120]}, which the archive does not have")


def draw_validation(official: Lists) -> tuple[Lists, bool]:
    """(the lists, whether the validation list was drawn here): a tenth of train, rounded up, by the hash of its paths.

    The sizes are VPT's; which pictures its own draw took only its lists can tell. A set with a validation list of its
    authors' keeps it.
    """
    if "val" in official:
        return official, False
    train = official["train"]
    ordered = [str(key) for key in hash_order(SALT, train)]
    count = -(-len(ordered) // 10)
    val = set(ordered[:count])
    return {
        "train": {path: label for path, label in train.items() if path not in val},
        "val": {path: label for path, label in train.items() if path in val},
        "test": official["test"],
    }, True
