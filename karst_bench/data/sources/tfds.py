"""dataset.source=tfds: sets that tensorflow-datasets prepared as array_record files, read without TensorFlow.

VTAB-1K is a slice of each split in the order on disk, which is that of a hash of the examples' keys: the first 800 of
one split, 200 from a given percentage of one, a test split or its tail (vtab_splits.RULES).
"""

import fnmatch
import hashlib
import os
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from karst_bench import files
from karst_bench.data.cache.cache import Cache
from karst_bench.data.decode import BadImageError
from karst_bench.data.images import Source
from karst_bench.data.resize import Resize
from karst_bench.data.sources.vtab_labels import rule
from karst_bench.data.sources.vtab_splits import SPLITS, slices, source_split
from karst_bench.data.task import JoinedSplit, LazySplits, Split, Task
from karst_bench.errors import UserError

LAYOUTS = ("", "tensorflow_datasets", "tfds")


def load_tfds(dataset: Mapping[str, Any], *, data_root: Path, cache: Cache, size: int) -> Task:
    """The task of a VTAB configuration, read from prepared files under paths.data, TFDS_DATA_DIR or ~/tensorflow_datasets.

    Raises: UserError where there are none, or where they are TFRecord files, which TensorFlow alone can read.
    """
    check_suite(dataset)
    builder = _builder(dataset["tfds"]["builder"], data_root)
    sources = {name: partial(_source, dataset, builder, name, cache) for name in SPLITS}
    resize = Resize(dataset["transform"], size)
    made: dict[str, TfdsSource] = {}

    def open_split(name: str) -> Split:
        made[name] = made.get(name) or sources[name]()
        return cache.open(made[name], resize, native=name == "test")

    splits: LazySplits = LazySplits(
        {name: partial(open_split, name) for name in SPLITS}
        | {"train800val200": lambda: JoinedSplit("train800val200", (splits["train800"], splits["val200"]))}
    )
    found = _differences(dataset, builder)
    notes = tuple(f"own split: {text}" for text in found)
    if dataset["task"] == "caltech101":
        notes += ("caltech101's train/test split depends on the machine that prepared it",)
    return Task(
        name=dataset["name"],
        classes=dataset["classes"],
        splits=splits,
        list_sha256=_lists_sha256(dataset, builder),
        encoding="native",
        source="tfds",
        own_split=bool(found),
        notes=notes,
    )


def check_suite(dataset: Mapping[str, Any]) -> None:
    """Raises: UserError for a set that is not read from tensorflow-datasets."""
    if "tfds" not in dataset:
        raise UserError(f"dataset={dataset['name']}: dataset.source=tfds is for vtab sets; few-shot sets use folder")


def find_prepared(request: str, data_root: Path) -> Path:
    """The folder of a prepared "name[/config]:version pattern", the newest version that fits.

    Raises: UserError with every place looked at and how to prepare it.
    """
    name, _, pattern = request.partition(":")
    roots = [data_root / folder for folder in LAYOUTS]
    roots += [Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()]
    infos = [sorted((root / name).glob("*/dataset_info.json"), reverse=True) for root in roots]
    versions = [info.parent for found in infos for info in found]
    fitting = [path for path in versions if fnmatch.fnmatch(path.name, pattern)]
    if not fitting:
        there = f" Other versions are there: {', '.join(map(str, versions))}." if versions else ""
        raise UserError(
            f"dataset.source=tfds: no prepared {request} in {', '.join(str(root / name) for root in roots)}.{there}"
            f" Prepare it where TensorFlow is installed: `pip install 'karst_bench[tfds-prepare]'`, then"
            f" `tfds build {name} --file_format=array_record --data_dir={data_root}`; or use dataset.source=folder, or"
            " the embedded dataset=mini/digits."
        )
    return fitting[0]


def _builder(request: str, data_root: Path) -> Any:
    folder, name = find_prepared(request, data_root), request.partition(":")[0]
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise UserError(f"dataset.source=tfds needs tensorflow-datasets ({error}); pip install it") from error
    builder = tfds.builder_from_directory(folder)
    if builder.info.file_format.value != "array_record":
        raise UserError(
            f"{folder}: prepared as {builder.info.file_format.value}, which TensorFlow alone can read. Prepare it"
            f" anew, where that is installed, by `tfds build {name} --file_format=array_record`, or use"
            " dataset.source=folder."
        )
    return builder


def _sizes(builder: Any) -> dict[str, int]:
    return {name: split.num_examples for name, split in builder.info.splits.items()}


def _slices(dataset: Mapping[str, Any], builder: Any) -> dict[str, tuple[str, int, int]]:
    sizes = _sizes(builder)
    needed = {source_split(dataset["task"], name) for name in SPLITS}
    if not needed <= set(sizes):
        raise UserError(
            f"{builder.data_path}: holds the splits {', '.join(sizes)}, but {dataset['name']} needs"
            f" {', '.join(sorted(needed))}; prepare the set anew"
        )
    return slices(dataset["task"], sizes)


def _differences(dataset: Mapping[str, Any], builder: Any) -> list[str]:
    return [
        f"{name} has {end - first} examples, not {dataset['sizes'][name]}"
        for name, (_, first, end) in _slices(dataset, builder).items()
        if end - first != dataset["sizes"][name]
    ]


def _lists_sha256(dataset: Mapping[str, Any], builder: Any) -> str:
    return hashlib.sha256(f"{builder.info.full_name} {_slices(dataset, builder)}".encode()).hexdigest()


class TfdsSource(Source):
    """A slice of a prepared split. images: its examples; origin: what they are, for messages and the cache's key."""

    def __init__(self, folder: str, name: str, images: Sequence[Any], labels: torch.Tensor, origin: str) -> None:
        self.folder = folder
        self.name = name
        self.labels = labels
        self._images = images
        self._origin = origin
        self._one_at_a_time = threading.Lock()  # the readers below make no promise about threads

    def load(self, index: int) -> torch.Tensor:
        """Image `index`: uint8 (3, h, w); grey is repeated, black and white of 0 and 1 becomes 0 and 255."""
        try:
            with self._one_at_a_time:
                image = np.asarray(self._images[index]["image"])
        except (RuntimeError, ValueError, OSError) as error:
            raise BadImageError(f"{self._origin}: example {index} of {self.name} cannot be read ({error})") from error
        if image.shape[2] == 1:
            image = np.repeat(image, 3, axis=2)
        if self.folder.startswith("vtab-dsprites"):
            image = np.where(image > 0, 255, 0).astype(np.uint8)
        return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))

    def fingerprint(self) -> str:
        """Over the files' sizes and times, and the slice."""
        return hashlib.sha256(self._origin.encode()).hexdigest()


def _source(dataset: Mapping[str, Any], builder: Any, name: str, cache: Cache) -> TfdsSource:
    split, first, end = _slices(dataset, builder)[name]
    part = f"{split}[{first}:{end}]"
    shards = sorted(path for path in Path(builder.data_path).iterdir() if f"-{split}." in path.name)
    states = ",".join(f"{path.name}:{path.stat().st_size}:{path.stat().st_mtime_ns}" for path in shards)
    origin = f"{builder.info.full_name} {part} {states}"
    label = rule(dataset["tfds"]["label"])
    folder = dataset["name"].replace("/", "-")
    key = hashlib.sha256(f"{origin} {dataset['tfds']['label']}".encode()).hexdigest()[:16]
    store = cache.root / folder / f"labels-{name}-{key}.npy"
    labels = _stored(store, end - first)
    if labels is None:
        facts = builder.as_data_source(split=part, decoders=_undecoded(builder))
        labels = np.array([label(facts[index]) for index in range(len(facts))], dtype=np.int64)
        _store(store, labels)
    outside = np.flatnonzero((labels < 0) | (labels >= dataset["classes"]))
    if len(outside):
        raise UserError(
            f"{builder.data_path}: example {outside[0]} of {part} has label {labels[outside[0]]}, outside"
            f" 0..{dataset['classes'] - 1}; prepare the set anew"
        )
    return TfdsSource(folder, name, builder.as_data_source(split=part), torch.from_numpy(labels), origin)


def _undecoded(builder: Any) -> dict[str, Any]:
    """Decoders that leave all images as they are stored: labels are read without them."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    return {name: tfds.decode.SkipDecoding() for name in features if isinstance(features[name], tfds.features.Image)}


def _stored(file: Path, count: int) -> np.ndarray | None:
    try:
        found = np.load(file, mmap_mode="r", allow_pickle=False)  # a size that is only claimed is not held
    except (OSError, ValueError, EOFError):
        return None
    return np.array(found) if found.shape == (count,) and found.dtype == np.int64 else None


def _store(file: Path, labels: np.ndarray) -> None:
    with suppress(OSError), files.stream(file) as stream:  # what cannot be kept is read again next time
        np.save(stream, labels)
