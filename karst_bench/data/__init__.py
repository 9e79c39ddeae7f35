"""The data of a run: list files, images, a decode-once cache, and the embedded suite."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from karst_bench.data.sources import layouts
from karst_bench.errors import UserError

if TYPE_CHECKING:  # torch loads with the images, so that lists are read without it
    from karst_bench.data.task import Task

SOURCES = ("mini", "folder", "own", "tfds", "hf")
__all__ = ["find_task", "load_task"]


def find_task(dataset: Mapping[str, Any], *, data_root: Path | str) -> Path:
    """The folder that holds a set's lists, or its files prepared by tensorflow-datasets; nothing in it is read.

    Raises: UserError, one paragraph: what is missing, every place looked at, the command that prepares it, and the
    embedded alternative.
    """
    if dataset["source"] == "tfds":
        from karst_bench.data.sources.tfds import check_suite, find_prepared

        check_suite(dataset)
        return find_prepared(dataset["tfds"]["builder"], Path(data_root))
    if dataset["source"] == "own":
        from karst_bench.own_sets import set_form

        set_form(root := Path(str(dataset["root"])))
        return root
    if dataset["source"] == "hf":
        from karst_bench.data.sources.parquet_places import find_snapshot

        return find_snapshot(dataset, Path(data_root)).folder
    return layouts.find_lists(dataset, data_root=Path(data_root))


def load_task(
    dataset: Mapping[str, Any],
    *,
    data_root: Path | str,
    cache_root: Path | str,
    cache_gb: float = math.inf,
    size: int,
    canvas: float | None = None,
) -> "Task":
    """The task of a dataset's configuration (a plain dict), its splits decoded when first asked for.

    data_root: paths.data. cache_root: paths.cache. cache_gb: what may be kept there, in 1e9 bytes. size: of the network's
    input, in pixels. canvas: augment.canvas, the side over `size` of the few-shot training images, where crops are taken.
    Raises: UserError where data are missing or bad: what, where, and the remedy.
    """
    source = dataset.get("source")
    if source not in SOURCES:
        raise UserError(f"dataset.source={source} is not known; choose folder, own, tfds or hf (mini sets have their own)")
    if source == "mini":
        from karst_bench.data.mini import load_mini

        return load_mini(dataset, cache_root=Path(cache_root), size=size)
    from karst_bench.data.cache.cache import Cache

    cache = Cache(Path(cache_root), cache_gb * 1e9)
    if source == "folder":
        from karst_bench.data.sources.folder import load_folder

        return load_folder(dataset, data_root=Path(data_root), cache=cache, size=size, canvas=canvas)
    if source == "own":
        from karst_bench.data.sources.own import load_own

        return load_own(dataset, cache=cache, size=size, canvas=canvas)
    if source == "tfds":
        from karst_bench.data.sources.tfds import load_tfds

        return load_tfds(dataset, data_root=Path(data_root), cache=cache, size=size)
    from karst_bench.data.sources.parquet import load_parquet

    return load_parquet(dataset, data_root=Path(data_root), cache=cache, size=size)
