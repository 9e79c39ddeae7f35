"""Which rows of an original set's parquet files VTAB-1K chooses, by the names of the examples in them."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard, TypeVar

from karst_bench.data.sources.vtab_splits import FULL_SIZES, keys_of_splits, source_split

T = TypeVar("T")
# What a key of a task looks like. Tasks whose keys are bare numbers are not listed: a column of numbers does not say
# whether it counts the original file or the copy's own rows.
KEYS = {
    "caltech101": r"[^/]+/image_\d{4}\.jpg",
    "dtd": r"[^/]+/[^/]+\.jpg",
    "flowers102": r"image_\d{5}\.jpg",
    "pets": r"[A-Za-z_]+_\d+\.jpg",
    "sun397": r"/[a-z]/.+\.jpg",
    "camelyon": r"(train|valid|test)_\d+",
    "eurosat": r"([A-Za-z]+)_\1_\d+\.jpg",
    "resisc45": r"([a-z_]+)_\1_\d+\.jpg",
    "retinopathy": r"\d+_(left|right)",
    "clevr_count": r"CLEVR_(train|val)_\d{6}\.png",
    "clevr_distance": r"CLEVR_(train|val)_\d{6}\.png",
    "dmlab": r"video_.+\.jpg",
    "kitti_distance": r"\d{6}\.png",
}


def chosen_rows(
    dataset: Mapping[str, Any], tables: Mapping[str, tuple[T, Sequence[str] | None]]
) -> tuple[dict[str, tuple[T, list[int]]], list[str]]:
    """{train800, val200, test: (table, rows)} as far as keys allow, and in what the original splits differ in size.

    tables: {original split: (table, the key of each row or None)}. A split is given only if all its keys look like the
    task's and none is twice.
    """
    task = dataset["task"]
    known = FULL_SIZES[task] if task in KEYS else {}
    usable = {source: keys for source, (_, keys) in tables.items() if source in known and _are_names(keys, KEYS[task])}
    differences = [
        f"its {source} split has {len(keys)} examples, not {known[source]}"
        for source, keys in usable.items()
        if len(keys) != known[source]
    ]
    found: dict[str, tuple[T, list[int]]] = {}
    for name, chosen in keys_of_splits(task, usable).items():
        source = source_split(task, name)
        row_of = {key: row for row, key in enumerate(usable[source])}
        if chosen:
            found[name] = (tables[source][0], [row_of[str(key)] for key in chosen])
    return found, differences


def _are_names(keys: Sequence[str] | None, pattern: str) -> TypeGuard[Sequence[str]]:
    return keys is not None and len(set(keys)) == len(keys) and all(re.fullmatch(pattern, key) for key in keys)
