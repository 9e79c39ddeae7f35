"""The embedded suite: small tasks that are drawn by this package, without any download, the same on every machine.

Each image has a random stream of its own, named by task, split and number, so neither the order nor the number of
threads matters. What was drawn is kept under cache_root and drawn again when a generator changes. This is not VTAB.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from karst_bench import files
from karst_bench.data.mini import drawing, finegrained, fonts, natural, specialized, structured
from karst_bench.data.mini.difficulty import Difficulty
from karst_bench.data.mini.drawing import SIDE
from karst_bench.data.task import ArraySplit, JoinedSplit, Split, Task
from karst_bench.errors import UserError

log = logging.getLogger(__name__)

VERSION = 2  # goes up whenever any image changes
POOL = 24  # few-shot: images of each class that shots are drawn from
Painter = Callable[[int, np.random.Generator, str, Difficulty], np.ndarray]
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Generator:
    """A painter (label, random stream, split, difficulty) -> uint8 (32, 32, 3), its classes, the module that holds it."""

    paint: Painter
    classes: int
    module: ModuleType


GENERATORS: dict[str, Generator] = {
    "digits": Generator(natural.digits, 10, natural),
    "glyphs": Generator(natural.glyphs, len(natural.LETTERS), natural),
    "textures": Generator(natural.textures, len(natural.TEXTURES), natural),
    "landuse": Generator(specialized.landuse, 2 * len(specialized.LAND), specialized),
    "cells": Generator(specialized.cells, 8, specialized),
    "location": Generator(structured.location, structured.COLUMNS, structured),
    "orientation": Generator(structured.orientation, structured.TURNS, structured),
    "count": Generator(structured.count, 8, structured),
    "distance": Generator(structured.distance, structured.STEPS, structured),
    "fs_glyphs": Generator(finegrained.fs_glyphs, len(finegrained.GREEK_LETTERS), finegrained),
    "fs_flowers": Generator(finegrained.fs_flowers, 16, finegrained),
}


def load_mini(dataset: Mapping[str, Any], *, cache_root: Path, size: int) -> Task:
    """The task of a `dataset` node (conf/dataset/mini/*.yaml), drawn now or read from the cache, at size x size pixels.

    With `shots` set: train (shots of each class, drawn from a pool of 24 by split_seed; fewer shots are a subset of
    more), val, test. Else train800, val200, train800val200, test. list_sha256 covers version, parameters and pixels.
    Raises: UserError for an unknown task, a wrong number of classes, missing sizes or difficulty, or more shots than the
    pool holds.
    """
    name, generator, difficulty = str(dataset["name"]), _generator(dataset), Difficulty.of(dataset)
    shots = dataset.get("shots")
    sizes = _sizes(dataset, {"val", "test"} if shots is not None else {"train800", "val200", "test"})
    drawn = sizes if shots is None else {"pool": POOL * generator.classes, **sizes}
    arrays = _cached(str(dataset["task"]), generator, drawn, difficulty, Path(cache_root))
    labels = {split: np.arange(n) % generator.classes for split, n in drawn.items()}
    parameters: dict[str, Any] = {"version": VERSION, "name": name, "sizes": drawn, "difficulty": difficulty.values()}
    if shots is not None:
        seed = int(dataset["split_seed"])
        chosen = _chosen(name, generator.classes, int(shots), seed)
        arrays = {"train": arrays["pool"][chosen], "val": arrays["val"], "test": arrays["test"]}
        labels["train"] = labels["pool"][chosen]
        parameters |= {"shots": int(shots), "split_seed": seed}
    splits: dict[str, Split] = {
        split: ArraySplit(split, _resized(pixels, size), torch.from_numpy(labels[split].astype(np.int64)))
        for split, pixels in arrays.items()
    }
    if shots is None:
        splits["train800val200"] = JoinedSplit("train800val200", (splits["train800"], splits["val200"]))
    return Task(
        name=name,
        classes=generator.classes,
        splits=splits,
        list_sha256=_digest(parameters, arrays),
        encoding="generated",
        source="mini",
        notes=("drawn by karst_bench; not a VTAB task",),
        files=_sources(generator),
    )


def _sizes(dataset: Mapping[str, Any], expected: set[str]) -> dict[str, int]:
    sizes = {str(key): int(value) for key, value in dataset["sizes"].items()}
    if set(sizes) != expected:
        raise UserError(
            f"dataset {dataset['name']}: sizes must name {sorted(expected)}, got {sorted(sizes)}; correct its YAML"
        )
    return sizes


def _generator(dataset: Mapping[str, Any]) -> Generator:
    task = str(dataset["task"])
    if task not in GENERATORS:
        raise UserError(f"dataset {dataset['name']}: no generator called {task!r}; known are {', '.join(GENERATORS)}")
    generator = GENERATORS[task]
    if int(dataset["classes"]) != generator.classes:
        raise UserError(
            f"dataset {dataset['name']}: its YAML says classes={dataset['classes']}, its generator draws "
            f"{generator.classes}; write classes: {generator.classes}"
        )
    return generator


def draw(task: str, generator: Generator, split: str, n: int, difficulty: Difficulty) -> np.ndarray:
    """n images of a split, uint8 (n, 3, 32, 32); image i has label i mod classes and its own random stream."""
    stream = [VERSION, *f"{task}/{split}".encode()]
    pixels = np.empty((n, 3, SIDE, SIDE), dtype=np.uint8)
    for i in range(n):
        image = generator.paint(i % generator.classes, np.random.default_rng([*stream, i]), split, difficulty)
        pixels[i] = image.transpose(2, 0, 1)
    return pixels


def _cached(task: str, generator: Generator, sizes: dict[str, int], difficulty: Difficulty, cache_root: Path) -> Arrays:
    """The splits' pixels from the cache; drawn and put there, in one move, when they are not."""
    facts = json.dumps([VERSION, task, sizes, difficulty.values()]).encode()
    code = [path.read_bytes() for path in _sources(generator)]
    key = hashlib.sha256(b"\0".join([*code, facts])).hexdigest()[:16]
    path = cache_root / "mini" / f"{task}-{key}.npz"
    if path.is_file():
        try:
            with (
                path.open("rb") as kept,
                np.load(kept) as stored,
            ):  # a zip file: each array's checksum is compared as it is read
                return {split: _whole(stored[split], n) for split, n in sizes.items()}
        except Exception as error:  # whatever bytes of others make zipfile and numpy raise
            log.warning("%s is damaged (%s); its images are drawn again", path, error)
    arrays = {split: draw(task, generator, split, n, difficulty) for split, n in sizes.items()}
    try:
        with files.stream(path) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
    except OSError as error:
        log.warning("%s cannot be written (%s); every run draws its images itself", path, error.strerror)
    return arrays


def _whole(pixels: np.ndarray, n: int) -> np.ndarray:
    if pixels.dtype != np.uint8 or pixels.shape != (n, 3, SIDE, SIDE):
        raise ValueError(f"{pixels.dtype} {pixels.shape} for {n} images")
    return pixels


def _sources(generator: Generator) -> tuple[Path, ...]:
    """The files whose code decides what is drawn."""
    return tuple(Path(str(module.__file__)) for module in (generator.module, drawing, fonts))


def _chosen(name: str, classes: int, shots: int, seed: int) -> np.ndarray:
    """Numbers in the pool of the training images: `shots` of each class, class by class."""
    if not 1 <= shots <= POOL:
        raise UserError(f"dataset {name}: shots={shots} must lie in 1..{POOL}; the suite's own are 1, 2, 4, 8, 16")
    orders = [np.random.default_rng([seed, label]).permutation(POOL)[:shots] for label in range(classes)]
    return np.concatenate([order * classes + label for label, order in enumerate(orders)])


def _resized(pixels: np.ndarray, size: int) -> torch.Tensor:
    images = torch.from_numpy(pixels)
    if size == SIDE:
        return images
    parts = [
        functional.interpolate(part.float(), (size, size), mode="bilinear", antialias=True, align_corners=False)
        for part in images.split(64)
    ]
    return torch.cat([part.round().clamp(0, 255).to(torch.uint8) for part in parts])


def _digest(parameters: dict[str, Any], arrays: Arrays) -> str:
    """SHA-256 over the parameters and the images' bytes, split by split."""
    digest = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode())
    for split in sorted(arrays):
        digest.update(split.encode() + np.ascontiguousarray(arrays[split]).tobytes())
    return digest.hexdigest()
