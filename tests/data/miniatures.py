"""Miniature sets in the true formats: 19 VTAB-1K folders and five few-shot sets."""

import copy
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from karst_bench.config.datasets import dataset_config
from karst_bench.config.option_files import option_config

CONF = Path(__file__).parents[2] / "conf" / "dataset"
VTAB = sorted(path.stem for path in (CONF / "vtab").glob("[!_]*.yaml"))
FEWSHOT = sorted(path.stem for path in (CONF / "fewshot").glob("[!_]*.yaml"))
OPTIONS = [f"vtab/{name}" for name in VTAB] + [f"fewshot/{name}" for name in FEWSHOT]


def dataset_of(option: str, **changes: Any) -> dict[str, Any]:
    """The configuration of an option, as the pipeline hands it on."""
    return copy.deepcopy(_dataset(option)) | changes


_dataset = lru_cache(dataset_config)


def augment_of(name: str, **changes: Any) -> dict[str, Any]:
    """The values of a file of conf/augment."""
    return option_config("augment", name) | changes


def image(path: Path, rng: np.random.Generator, height: int = 24, width: int = 32, **save: Any) -> None:
    """A smooth random RGB image, so that JPEG keeps it recognisable."""
    coarse = rng.integers(0, 256, (3, 4, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(coarse).resize((width, height)).save(path, **save)


def make_vtab(root: Path, option: str, *, train: int = 8, val: int = 4, test: int = 6, suffix: str = "jpg") -> Path:
    """A VTAB-1K folder as NOAH's script writes it: images/<split>/NNNNNN.jpg and four lists."""
    dataset = dataset_of(option)
    home = root / "vtab-1k" / dataset["folder"]
    rng = np.random.default_rng(0)
    labels = {name: [int(v) for v in rng.integers(0, dataset["classes"], n)] for name, n in
              (("train800", train), ("val200", val), ("test", test))}
    labels["train800val200"] = labels["train800"] + labels["val200"]
    for split, values in labels.items():
        lines = []
        for number, label in enumerate(values):
            name = f"images/{split}/{number:06d}.{suffix}"
            original = home / f"images/{'train800' if number < train else 'val200'}"
            if split == "train800val200":
                copy = original / f"{number if number < train else number - train:06d}.{suffix}"
                (home / name).parent.mkdir(parents=True, exist_ok=True)
                (home / name).write_bytes(copy.read_bytes())
            else:
                image(home / name, rng)
            lines.append(f"{name} {label}\n")
        (home / f"{split}.txt").write_text("".join(lines))
    return home


def make_fewshot(root: Path, option: str, *, layout: str = "noah") -> Path:
    """A few-shot set with 1-shot lists in one of the four layouts: noah, karst, torchvision, coop."""
    dataset = dataset_of(option)
    folder = dataset["folder"]
    lists = {"karst": root / "few-shot_split" / folder, "noah": root / "few-shot" / folder}.get(layout, root / folder)
    annotations = lists / "annotations"
    annotations.mkdir(parents=True)
    images = {
        "noah": root / "few-shot" / folder / ("" if folder == "standford-cars" else "images"),
        "karst": root / folder,
        "torchvision": root / {"fgvc-aircraft": "fgvc-aircraft-2013b/data/images", "food101": "food-101/images",
                               "oxford-flowers102": "flowers-102/jpg", "oxford-pets": "oxford-iiit-pet/images",
                               "standford-cars": "stanford_cars"}[folder],
        "coop": root / {"fgvc-aircraft": "fgvc_aircraft/images", "food101": "food-101/images",
                        "oxford-flowers102": "oxford_flowers/jpg", "oxford-pets": "oxford_pets/images",
                        "standford-cars": "stanford_cars"}[folder],
    }[layout]
    rng = np.random.default_rng(1)
    for name, count in (("train", dataset["classes"]), ("val", 5), ("test", 6)):
        lines = []
        for number in range(count):
            path = f"{name}_{number:03d}.jpg"
            path = f"cars_{'test' if name == 'test' else 'train'}/{path}" if folder == "standford-cars" else path
            image(images / path, rng)
            lines.append(f"{path} {number}\n")
        file = "train_meta.list.num_shot_1.seed_0" if name == "train" else f"{name}_meta.list"
        repeat = 2 if (name, folder) == ("train", "oxford-pets") else 1
        (annotations / file).write_text("".join(line * repeat for line in lines))
    return annotations
