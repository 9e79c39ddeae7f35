"""The labels of a split from its list alone: no image is opened, and torch is not imported."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from karst_bench.data.sources.layouts import FGVC_SPLITS, VTAB_SPLITS, fewshot_files, find_lists
from karst_bench.data.sources.lists import Scan, lists_sha256, read


def listed_labels(dataset: Mapping[str, Any], split: str, *, data_root: Path) -> tuple[str, list[int] | None]:
    """(the hash over the lists of a set, the labels of a split in the order of its list; None where it has none).

    dataset: its configuration, with `source: folder`. Raises: UserError where the lists are missing or bad.
    """
    home = find_lists(dataset, data_root=data_root)
    scans = {name: read(file, dataset["classes"]) for name, file in _files(dataset, home).items() if file.is_file()}
    rows = _rows(scans, split)
    return lists_sha256({name: found.rows for name, found in scans.items()}), rows


def _files(dataset: Mapping[str, Any], home: Path) -> dict[str, Path]:
    if dataset["suite"] == "fewshot":
        return fewshot_files(dataset, home)
    return {name: home / f"{name}.txt" for name in (FGVC_SPLITS if dataset["suite"] == "fgvc" else VTAB_SPLITS)}


def _rows(scans: Mapping[str, Scan], split: str) -> list[int] | None:
    return [row.label for row in scans[split].rows] if split in scans else None
