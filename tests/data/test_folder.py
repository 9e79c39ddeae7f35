"""All 24 sets in miniature through load_task, the layouts they come in, and what is said where they are not there."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from miniatures import FEWSHOT, OPTIONS, augment_of, dataset_of, make_fewshot, make_vtab
from PIL import Image

from karst_bench.data import find_task, load_task
from karst_bench.data.augment.policy import augmentation
from karst_bench.data.builders.staging import check_free
from karst_bench.data.loader import SplitBatches
from karst_bench.errors import UserError

HALF = (0.5, 0.5, 0.5)


@pytest.mark.parametrize("option", OPTIONS)
def test_every_set_loads_and_gives_an_epoch(option: str, all_sets: Path, tmp_path: Path, lines: list[str]) -> None:
    dataset = dataset_of(option)
    augment = augment_of("fs_dtl" if dataset["suite"] == "fewshot" else "none")
    task = load_task(dataset, data_root=all_sets, cache_root=tmp_path, size=16, canvas=augment["canvas"])
    train = task.splits["train" if dataset["suite"] == "fewshot" else "train800val200"]
    change = augmentation(augment, size=16, mean=HALF, std=HALF)
    batches = SplitBatches(train, batch=8, mean=HALF, std=HALF, device="cpu", augment=change)
    seen = 0
    for images, labels in batches.epoch(torch.Generator().manual_seed(0)):
        assert images.shape[1:] == (3, 16, 16) and images.abs().max() <= 1.0 + 1e-6
        assert labels.min() >= 0 and labels.max() < dataset["classes"]
        seen += len(labels)
    assert seen == len(train) == (dataset["classes"] if dataset["suite"] == "fewshot" else 12)
    assert task.splits["test"].read(torch.arange(6)).images.shape == (6, 3, 16, 16)
    assert task.own_split and task.source == "folder" and len(task.list_sha256) == 64
    assert task.encoding == ("native" if dataset["suite"] == "fewshot" else "jpeg75")
    assert sum("own split" in line for line in lines) == 1  # one warning


def test_images_keep_their_labels(tmp_path: Path) -> None:
    """Each image is painted in the colour of its label, so that any mix-up of rows shows."""
    home = make_vtab(tmp_path, "vtab/eurosat", train=20, val=10, test=40)
    for split in ("train800", "val200", "train800val200", "test"):
        for line in (home / f"{split}.txt").read_text().splitlines():
            path, label = line.split()
            Image.new("RGB", (20, 20), (int(label) * 25, 0, 255)).save(home / path)
    task = load_task(dataset_of("vtab/eurosat"), data_root=tmp_path, cache_root=tmp_path / "c", size=16)
    for split in task.splits.values():
        order = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))
        red = split.read(order).images[:, 0].float().mean(dim=(1, 2)) / 25
        assert torch.equal(red.round().long(), split.labels[order])


@pytest.mark.parametrize("layout", ["noah", "karst", "torchvision", "coop"])
@pytest.mark.parametrize("name", FEWSHOT)
def test_every_layout_is_found(name: str, layout: str, tmp_path: Path) -> None:
    make_fewshot(tmp_path, f"fewshot/{name}", layout=layout)
    task = load_task(dataset_of(f"fewshot/{name}"), data_root=tmp_path, cache_root=tmp_path / "c", size=8)
    assert len(task.splits["val"]) == 5


@pytest.mark.parametrize("place", ["vtab-1k/cifar", "vtab-1k/cifar100", "cifar", "cifar100", "vtab/cifar-100"])
def test_usual_names_and_places_are_accepted(place: str, tmp_path: Path) -> None:
    made = make_vtab(tmp_path / "made", "vtab/cifar100")
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    shutil.move(made, tmp_path / place)
    assert find_task(dataset_of("vtab/cifar100"), data_root=tmp_path) == tmp_path / place


def test_missing_data_say_where_and_how(tmp_path: Path) -> None:
    for option, command in (("vtab/dtd", "karst-bench data prepare"), ("fewshot/cars", "karst-bench data fewshot")):
        with pytest.raises(UserError) as caught:
            load_task(dataset_of(option), data_root=tmp_path, cache_root=tmp_path / "c", size=16)
        text = str(caught.value)
        assert command in text and "dataset=mini/digits" in text and option in text and "\n" not in text
    assert "standford-cars" in text and "stanford_cars" in text
    (tmp_path / "vtab-1k" / "dtd" / "images").mkdir(parents=True)
    with pytest.raises(UserError, match=r"is there, but without its lists.*dataset=folder dataset\.root="):
        find_task(dataset_of("vtab/dtd"), data_root=tmp_path)
    with pytest.raises(UserError, match=r"no finished set; .*dataset=folder dataset\.root="):
        check_free(tmp_path / "vtab-1k" / "dtd")


def test_pets_once_each_and_noted(tmp_path: Path) -> None:
    make_fewshot(tmp_path, "fewshot/pets")
    task = load_task(dataset_of("fewshot/pets"), data_root=tmp_path, cache_root=tmp_path / "c", size=8)
    assert len(task.splits["train"]) == 37
    assert "74 rows of 37 images" in task.notes[0]


def test_shots_without_a_list_are_refused(tmp_path: Path) -> None:
    make_fewshot(tmp_path, "fewshot/pets")
    with pytest.raises(UserError, match="shots=1,2,4,8,16"):
        load_task(dataset_of("fewshot/pets", shots=3), data_root=tmp_path, cache_root=tmp_path / "c", size=8)
    task = load_task(dataset_of("fewshot/pets", shots=4), data_root=tmp_path, cache_root=tmp_path / "c", size=8)
    with pytest.raises(UserError, match=r"num_shot_4\.seed_0"):
        task.splits["train"]


def test_absent_lists(tmp_path: Path) -> None:
    """train800val200 is put together from its parts; a list that cannot be is an error when it is asked for."""
    home = make_vtab(tmp_path, "vtab/dtd")
    (home / "train800val200.txt").unlink()
    (home / "test.txt").unlink()
    task = load_task(dataset_of("vtab/dtd"), data_root=tmp_path, cache_root=tmp_path / "c", size=8)
    assert len(task.splits["train800val200"]) == 12
    assert task.splits["train800val200"].read(torch.tensor([0, 11])).images.shape == (2, 3, 8, 8)
    with pytest.raises(UserError, match=r"test\.txt"):
        task.splits["test"]


def test_a_shared_image_is_refused(tmp_path: Path) -> None:
    home = make_vtab(tmp_path, "vtab/dtd")
    first = (home / "test.txt").read_text().splitlines()[0]
    with (home / "train800.txt").open("a") as file:
        file.write(first + "\n")
    with pytest.raises(UserError, match="share 1 image"):
        load_task(dataset_of("vtab/dtd"), data_root=tmp_path, cache_root=tmp_path / "c", size=8)


@pytest.mark.parametrize("spelt", ["./images/train800/000000.jpg", "images\\train800\\000000.jpg", "images//train800/000000.jpg",
                                   "link.jpg", "hard.jpg", "folder/000000.jpg"])  # fmt: skip
def test_one_file_under_two_names_is_one_image(spelt: str, tmp_path: Path) -> None:
    """Lists are compared as files: another spelling, a link, a linked folder."""
    home = make_vtab(tmp_path, "vtab/dtd")
    first = home / "images/train800/000000.jpg"
    (home / "link.jpg").symlink_to(first)
    (home / "hard.jpg").hardlink_to(first)
    (home / "folder").symlink_to(home / "images/train800")
    label = (home / "train800.txt").read_text().split()[1]
    with (home / "test.txt").open("a") as file:
        file.write(f"{spelt} {label}\r\n")
    with pytest.raises(UserError, match="share 1 image"):
        load_task(dataset_of("vtab/dtd"), data_root=tmp_path, cache_root=tmp_path / "c", size=8)


def test_the_pictures_are_bound_to_the_task(tmp_path: Path) -> None:
    """Over the files' bytes, in the record; in the id where no published lists say which pictures are meant."""
    home = make_vtab(tmp_path, "vtab/dtd")

    def task(**changes: object):  # type: ignore[no-untyped-def]
        return load_task(dataset_of("vtab/dtd", **changes), data_root=tmp_path, cache_root=tmp_path / "c", size=8)

    before, own = task(), task(name="mine/dtd")
    assert before.pixels_sha256 is None and own.pixels_sha256 == before.images_sha256 == task().images_sha256
    for note in (tmp_path / "c" / "images").glob("*.txt"):
        note.write_text("no hash")
    assert task().images_sha256 == before.images_sha256, "a note that holds none is not believed"
    changed = home / "images/test/000003.jpg"
    changed.write_bytes((home / "images/test/000004.jpg").read_bytes())
    assert task().images_sha256 != before.images_sha256 and task().list_sha256 == before.list_sha256
    changed.unlink()
    assert task().images_sha256 is None


def test_a_changed_training_label_is_noticed(tmp_path: Path) -> None:
    home = make_vtab(tmp_path, "vtab/cifar100")
    lines = (home / "train800.txt").read_text().splitlines()
    path, label = lines[2].split()
    lines[2] = f"{path} {(int(label) + 1) % 100}"
    (home / "train800.txt").write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match="one of the three was changed"):
        load_task(dataset_of("vtab/cifar100"), data_root=tmp_path, cache_root=tmp_path / "c", size=8)


def test_the_hash_tells_lists_apart_not_places(tmp_path: Path) -> None:
    def hashed(root: Path) -> str:
        return load_task(dataset_of("vtab/dtd"), data_root=root, cache_root=tmp_path / "c", size=8).list_sha256

    make_vtab(tmp_path / "a", "vtab/dtd")
    make_vtab(tmp_path / "b", "vtab/dtd")
    make_vtab(tmp_path / "d", "vtab/dtd", test=7)
    assert hashed(tmp_path / "a") == hashed(tmp_path / "b") != hashed(tmp_path / "d")


def test_png_folders_are_told_from_jpeg(tmp_path: Path) -> None:
    make_vtab(tmp_path, "vtab/svhn", suffix="png")
    task = load_task(dataset_of("vtab/svhn"), data_root=tmp_path, cache_root=tmp_path / "c", size=8)
    assert task.encoding == "png"


def test_an_unknown_source(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dataset\.source=zip"):
        load_task(dataset_of("vtab/svhn", source="zip"), data_root=tmp_path, cache_root=tmp_path, size=8)


def test_numbers_are_those_of_pillow(tmp_path: Path) -> None:
    """Against `Image.open().convert("RGB").resize()`, what the field's readers do: at most a few levels apart."""
    home = make_vtab(tmp_path, "vtab/dtd")
    task = load_task(dataset_of("vtab/dtd"), data_root=tmp_path, cache_root=tmp_path / "c", size=16)
    with Image.open(home / "images/test/000000.jpg") as image:
        oracle = np.asarray(image.convert("RGB").resize((16, 16), Image.Resampling.BICUBIC)).astype(int)
    ours = task.splits["test"].read(torch.tensor([0])).images[0].permute(1, 2, 0).numpy().astype(int)
    assert np.abs(oracle - ours).max() <= 2
