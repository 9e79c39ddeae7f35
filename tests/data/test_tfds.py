"""Prepared array_record files, written here from synthetic examples, and read back without TensorFlow."""

import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from miniatures import VTAB, dataset_of
from PIL import Image

from karst_bench.data import load_task
from karst_bench.data.sources import tfds as tfds_source
from karst_bench.data.sources.vtab_labels import CLEVR_DEPTHS, KITTI_METRES, rule, step
from karst_bench.data.sources.vtab_splits import slices, source_split
from karst_bench.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def encoded(array: np.ndarray) -> io.BytesIO:
    out = io.BytesIO()
    Image.fromarray(array.squeeze()).save(out, "PNG")
    out.seek(0)
    return out


Rows = list[dict[str, Any]]


def prepare(request: str, splits: Mapping[str, Rows], root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prepared set as `tfds build --file_format=array_record` leaves it, keys being the examples' numbers."""
    pytest.importorskip("importlib_resources", reason="tensorflow-datasets writes with it, and does not require it")
    import tensorflow_datasets as tfds

    builder = tfds.builder(request, data_dir=root, file_format="array_record")

    def examples(rows: Rows) -> Iterator[tuple[str, dict[str, Any]]]:
        yield from ((str(number), row) for number, row in enumerate(rows))

    generators = lambda *_: {name: examples(rows) for name, rows in splits.items()}  # noqa: E731
    monkeypatch.setattr(type(builder), "_split_generators", generators)
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))


def cifar_rows(count: int, rng: np.random.Generator) -> Rows:
    """Images whose first red pixel repeats the label, so that a mix-up would show."""
    rows = []
    for number in range(count):
        image = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        image[..., 0] = number % 100
        rows.append({"image": encoded(image), "label": number % 100, "coarse_label": 0, "id": f"x_{number}"})
    return rows


def test_a_prepared_set_is_sliced_as_vtab_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str]) -> None:
    rng = np.random.default_rng(0)
    prepare("cifar100", {"train": cifar_rows(1000, rng), "test": cifar_rows(30, rng)}, tmp_path, monkeypatch)
    dataset = dataset_of("vtab/cifar100", source="tfds")
    read_labels = tfds_source._undecoded
    scans = []
    monkeypatch.setattr(tfds_source, "_undecoded", lambda builder: scans.append(builder) or read_labels(builder))
    for _ in range(2):
        task = load_task(dataset, data_root=tmp_path, cache_root=tmp_path / "cache", size=32)
        sizes = {name: len(task.splits[name]) for name in task.splits}
        assert sizes == {"train800": 800, "val200": 100, "test": 30, "train800val200": 900}
        for name in sizes:
            split = task.splits[name]
            index = torch.arange(0, len(split), 7)
            assert torch.equal(split.read(index).images[:, 0, 5, 5].long(), split.labels[index])
    assert task.own_split and task.source == "tfds" and "val200 has 100 examples" in task.notes[0]
    assert len(lines) == len(scans) == 3  # each split decoded once, and gone through once for its labels
    import tensorflow_datasets as tfds

    builder = tfds.builder("cifar100", data_dir=tmp_path)
    first = [row["label"] for row in builder.as_data_source(split="train[:800]")]
    assert task.splits["train800"].labels.tolist() == first


def test_tfrecord_files_are_refused_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    prepare("cifar100", {"train": cifar_rows(4, rng), "test": cifar_rows(2, rng)}, tmp_path, monkeypatch)
    info = tmp_path / "cifar100" / "3.0.2" / "dataset_info.json"
    facts = json.loads(info.read_text())
    info.write_text(json.dumps(facts | {"fileFormat": "tfrecord"}))
    with pytest.raises(UserError, match=r"tfrecord.*TensorFlow alone.*--file_format=array_record"):
        load_task(dataset_of("vtab/cifar100", source="tfds"), data_root=tmp_path, cache_root=tmp_path / "c", size=32)


def test_nothing_prepared_says_how(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tfds build dtd --file_format=array_record"):
        load_task(dataset_of("vtab/dtd", source="tfds"), data_root=tmp_path, cache_root=tmp_path / "c", size=32)
    with pytest.raises(UserError, match="use folder"):
        load_task(dataset_of("fewshot/pets", source="tfds"), data_root=tmp_path, cache_root=tmp_path / "c", size=32)


@pytest.mark.parametrize("name", VTAB)
def test_every_label_rule_fits_its_builder(name: str) -> None:
    """The fields that the rules read are those of the installed builders (tfds' own mock examples)."""
    import tensorflow_datasets as tfds

    spec = dataset_of(f"vtab/{name}")["tfds"]
    with tfds.testing.mock_data(num_examples=4, policy=tfds.testing.MockPolicy.USE_CODE):
        source = tfds.builder(spec["builder"], data_dir="/nowhere").as_data_source(split=source_split(name, "test"))
        example = source[0]
    if "objects" in example:  # mock scenes may be empty
        example["objects"] |= {"pixel_coords": np.full((4, 3), 9.2), "location": np.ones((4, 3)), "type": np.arange(4)}
    assert isinstance(rule(spec["label"])(example), int)


def test_slices_at_the_published_sizes() -> None:
    sizes = {"cifar100": {"train": 50000, "test": 10000}, "svhn": {"train": 73257, "test": 26032},
             "caltech101": {"train": 3060, "test": 6084}, "pets": {"train": 3680, "test": 3669},
             "clevr_count": {"train": 70000, "validation": 15000}, "eurosat": {"train": 27000},
             "resisc45": {"train": 31500}, "dsprites_location": {"train": 737280},
             "smallnorb_azimuth": {"train": 24300, "test": 24300},
             "dtd": {"train": 1880, "validation": 1880, "test": 1880}}  # fmt: skip
    val = {"cifar100": 45000, "svhn": 65931, "caltech101": 2754, "pets": 2944, "clevr_count": 63000, "eurosat": 16200,
           "resisc45": 18900, "dsprites_location": 589824, "smallnorb_azimuth": 0, "dtd": 0}  # fmt: skip
    for name, found in sizes.items():
        dataset = dataset_of(f"vtab/{name}")
        cut = slices(name, found)
        assert cut["train800"] == ("train", 0, 800)
        assert cut["val200"][1:] == (val[name], val[name] + 200)
        assert cut["test"][2] - cut["test"][1] == dataset["sizes"]["test"]
    assert slices("eurosat", sizes["eurosat"])["test"][1] == 21600
    assert slices("dsprites_location", sizes["dsprites_location"])["test"][1] == 663552


def test_label_rules_at_their_edges() -> None:
    assert [step(CLEVR_DEPTHS, d) for d in (7.0, 8.0, 8.01, 8.5, 9.2, 9.9, 10.0, 11.0)] == [0, 0, 1, 1, 3, 4, 4, 5]
    assert [step(KITTI_METRES, z) for z in (-3.0, 8.0, 8.1, 20.0, 21.0, 999.0, 1000.0)] == [0, 0, 1, 1, 2, 2, 3]
    count, distance, kitti = rule("clevr_count"), rule("clevr_distance"), rule("kitti_distance")
    scene = {"objects": {"pixel_coords": np.array([[0, 0, 9.7], [0, 0, 8.3], [0, 0, 12.0]])}}
    assert (count(scene), distance(scene)) == (0, 1)
    road = {"objects": {"type": np.array([3, 1, 0]), "location": np.array([[0, 0, 2.0], [0, 0, 30.0], [0, 0, 15.0]])}}
    assert kitti(road) == 1
    assert kitti({"objects": {"type": np.array([], dtype=int), "location": np.zeros((0, 3))}}) == 3
    assert [rule("dsprites_orientation")({"label_orientation": v}) for v in (0, 2, 3, 4, 5, 39)] == [0, 0, 1, 1, 2, 15]
    assert [rule("dsprites_location")({"label_x_position": v}) for v in (0, 1, 2, 31)] == [0, 0, 1, 15]
    assert rule("label_azimuth")({"label_azimuth": np.int64(17)}) == 17
