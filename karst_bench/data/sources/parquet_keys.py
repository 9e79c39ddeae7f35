"""Which rows of an original set's parquet files VTAB-1K chooses, by the names of the examples in them."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from karst_bench.data.sources.vtab_splits import FULL_SIZES, SPLITS, source_split, split_keys

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
    found: dict[str, tuple[T, list[int]]] = {}
    differences: list[str] = []
    for name in SPLITS:
        source = source_split(task, name)
        if source not in tables or task not in KEYS:
            continue
        table, keys = tables[source]
        if keys is None or len(set(keys)) < len(keys) or not all(re.fullmatch(KEYS[task], key) for key in keys):
            continue
        row_of = {key: row for row, key in enumerate(keys)}
        rows = [row_of[str(key)] for key in split_keys(task, name, keys)]
        if rows:
            found[name] = (table, rows)
        published = FULL_SIZES[task][source]
        text = f"its {source} split has {len(keys)} examples, not {published}"
        if len(keys) != published and text not in differences:
            differences.append(text)
    return found, differences
