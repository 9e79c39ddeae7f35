"""Sets prepared by tensorflow-datasets (array_record) select the images that the builder selects, without TensorFlow."""

import importlib.util
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from miniatures import dataset_of
from originals import CLEVR_DEPTHS, CLEVR_STEPS, Original, tasks
from PIL import Image

from karst_bench.config.compose import settings_of
from karst_bench.data import load_task
from karst_bench.data.builders import prepare_data, status
from karst_bench.data.sources.vtab_splits import SPLITS, source_split
from karst_bench.run import pipeline

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

# one task for each of the 16 builders; those of a kind share one
TASKS = ("cifar100", "caltech101", "dtd", "flowers102", "pets", "svhn", "sun397", "camelyon", "eurosat", "resisc45",
         "retinopathy", "clevr_distance", "dmlab", "kitti_distance", "dsprites_location", "smallnorb_azimuth")  # fmt: skip
Examples = dict[str, list[tuple[int | str, dict[str, Any]]]]


def png(array: np.ndarray) -> io.BytesIO:
    out = io.BytesIO()
    Image.fromarray(array.squeeze(2) if array.ndim == 3 and array.shape[2] == 1 else array).save(out, "PNG")
    out.seek(0)
    return out


def nothing(feature: Any) -> Any:
    """A value of a feature that the task does not read."""
    from tensorflow_datasets import features as kinds

    if isinstance(feature, kinds.Image):
        shape = [side or 8 for side in feature.shape]
        return png(np.zeros(shape, np.uint8))
    if isinstance(feature, kinds.BBoxFeature):
        return kinds.BBox(0.0, 0.0, 1.0, 1.0)
    if isinstance(feature, kinds.Text):
        return ""
    if isinstance(feature, kinds.Sequence):
        return []
    return np.zeros(feature.shape, feature.np_dtype)


def read_back(task: str, label: int) -> dict[str, Any]:
    """The fields from which the task's rule makes `label`."""
    if task == "clevr_distance":
        return {"objects": [(1.0, 2.0, 13.0), (1.0, 2.0, CLEVR_DEPTHS[CLEVR_STEPS.index(label)])]}
    if task == "kitti_distance":
        return {"objects": [("Pedestrian", 1.0), *([("Car", (5.0, 15.0, 50.0)[label])] if label < 3 else [])]}
    if task == "dsprites_location":
        return {"label_x_position": 2 * label}
    return {"label_azimuth" if task == "smallnorb_azimuth" else "label": label}


def scene(task: str, feature: Any, things: list[Any]) -> list[dict[str, Any]]:
    """Objects with every field that the builder's objects have."""
    rows = []
    for thing in things:
        row = {name: nothing(part) for name, part in feature.feature.items()}
        if task == "clevr_distance":
            row["pixel_coords"] = np.array(thing, np.float32)
        else:
            row |= {"type": thing[0], "location": np.array([0, 0, thing[1]], np.float32)}
        rows.append(row)
    return rows


def write(task: str, found: Original, built: Path, root: Path, patch: pytest.MonkeyPatch) -> None:
    """The prepared set of a task's builder: all examples of the miniature archive under their true keys, those that the
    folder holds with its pixels."""
    import tensorflow_datasets as tfds

    config = dataset_of(f"vtab/{task}")
    home = built / "vtab-1k" / config["folder"]
    chosen: dict[tuple[str, str], np.ndarray] = {}
    splits: dict[str, dict[int | str, int]] = {}
    for line in (home / "keys.tsv").read_text().splitlines():
        split, number, key = line.split("\t")
        path, label = (home / f"{split}.txt").read_text().splitlines()[int(number)].split()
        source = source_split(task, split)
        with Image.open(home / path) as image:
            chosen[source, key] = np.asarray(image)
        whole = int(key) if key.isdecimal() else key
        splits.setdefault(source, {})[whole] = int(label)
    for (source, key), label in found.labels.items():  # and those that the rule leaves out
        if source in splits:
            splits[source].setdefault(key, label)
    builder = tfds.builder(config["tfds"]["builder"], data_dir=root, file_format="array_record")
    features = builder.info.features

    def examples(source: str) -> Iterator[tuple[int | str, dict[str, Any]]]:
        for key, label in splits[source].items():
            example = {name: nothing(features[name]) for name in features}
            pixels = chosen.get((source, str(key)))
            if pixels is not None:
                grey = features["image"].shape[-1] == 1
                example["image"] = png((pixels > 0).astype(np.uint8) if task.startswith("dsprites") else pixels)
                assert pixels.ndim == (2 if grey else 3)
            example |= read_back(task, label)
            if "objects" in example:
                example["objects"] = scene(task, features["objects"], example["objects"])
            yield key, example

    patch.setattr(type(builder), "_split_generators", lambda *_: {source: examples(source) for source in splits})
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))


@pytest.fixture
def prepared(
    request: pytest.FixtureRequest, originals: Any, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A folder with the prepared set of the test's task, written by tensorflow-datasets itself."""
    pytest.importorskip("importlib_resources", reason="tensorflow-datasets writes with it, and does not require it")
    task = request.node.callspec.params["task"]
    write(task, originals[task][1], built, tmp_path, monkeypatch)
    return tmp_path


@pytest.mark.parametrize("task", tasks(TASKS, ("cifar100", "dtd", "kitti_distance", "dsprites_location")))
def test_all_sources_select_the_same_images(task: str, prepared: Path, built: Path, tmp_path: Path) -> None:
    root = prepared
    ask = {"cache_root": tmp_path / "cache", "size": 16}
    given = load_task(dataset_of(f"vtab/{task}", source="tfds"), data_root=root, **ask)
    folder = load_task(dataset_of(f"vtab/{task}"), data_root=built, **ask)
    for split in SPLITS:
        one, other = given.splits[split], folder.splits[split]
        assert torch.equal(one.labels, other.labels)
        index = torch.arange(len(one))
        assert torch.equal(one.read(index).images, other.read(index).images)
    (line,) = status({task: dataset_of(f"vtab/{task}")}, root)
    assert (line.source, line.origin) == ("tfds", "tfds")
    (done,) = prepare_data({task: dataset_of(f"vtab/{task}")}, "tfds", root)
    assert done.ready and "prepared already" in done.text


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_a_prepared_set_trains_an_epoch(task: str, prepared: Path, tmp_path: Path) -> None:
    assert importlib.util.find_spec("tensorflow") is None, "this is to be shown without TensorFlow"
    words = [f"dataset=vtab/{task}", "dataset.source=tfds", "method=linear", "backbone=vit_mini", "recipe.epochs=1"]
    words += [
        "recipe.batch=16",
        "threads=1",
        f"paths.data={prepared}",
        f"paths.results={tmp_path}/r",
        f"paths.cache={tmp_path}/c",
    ]
    pipeline.run(settings_of(words))
    assert list((tmp_path / "r").rglob("*.json"))


@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is not None, reason="TensorFlow is installed here")
def test_preparing_without_tensorflow_says_what_to_do(tmp_path: Path) -> None:
    (done,) = prepare_data({"dtd": dataset_of("vtab/dtd")}, "tfds", tmp_path)
    assert done.state == "failed" and "karst_bench[tfds-prepare]" in done.text and "source=raw" in done.text
