"""A whole run against its own arithmetic: what `pipeline.run` takes over its steps and one test pass measured alone."""

import statistics
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from benchmarks.measure import trainer
from karst_bench.adapt.merge import merged
from karst_bench.config.compose import settings_of
from karst_bench.engine.streams import Streams
from karst_bench.run import pipeline
from karst_bench.run.prepare import prepare

MINI = ("method=karst", "dataset=mini/digits")
LARGE = ("method=karst", "dataset=vtab/cifar100", "precision=fp32", "recipe.epochs=2")
IMAGES = 200  # of the large run, in training and in the test split
ROUNDS = {"vit_mini": 5, "vit_b16": 1}  # pairs of a run and its arithmetic alone, one after the other


def measured(*, large: bool) -> dict[str, Any]:
    """Seconds by phase of runs of one process and of the same arithmetic alone, in turns: the machine drifts by a tenth."""
    rows: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        where = [f"paths.{name}={home / name}" for name in ("results", "outputs", "cache", "data")]
        cases = {"vit_mini, mini/digits, 15 epochs": ([*MINI], ROUNDS["vit_mini"])}
        if large:
            image_folder(home / "data" / "cifar", IMAGES)
            weights = home / "vit_b16.safetensors"
            save_file(timm.create_model("vit_base_patch16_224", num_classes=0).state_dict(), weights)
            cases[f"vit_b16, {IMAGES} images, 2 epochs"] = ([*LARGE, f"backbone.weights={weights}"], ROUNDS["vit_b16"])
        for title, (words, rounds) in cases.items():
            overrides = [*words, *where, "save_adapter=false"]
            _fill_cache(overrides)
            if rounds > 1:
                rows[f"{title}: first run of the process"] = run([*overrides, "seed=0"])
            pairs = [(_alone(overrides), run([*overrides, f"seed={seed}"])) for seed in range(1, rounds + 1)]
            alone, whole = (
                {key: _median(pair[which][key] for pair in pairs) for key in pairs[0][which]} for which in (0, 1)
            )
            ratios = [one["wall_s"] / (pure["steps_s"] + pure["test_s"]) for pure, one in pairs]
            rows[f"{title}: a run, median of {rounds}"] = whole | {"wall_ratio": _median(ratios)}
            rows[f"{title}: steps and test pass alone"] = alone
    return {"what": "whole runs, wall seconds; the images are in the cache", "rows": rows}


def _median(values: Iterable[float]) -> float:
    return round(statistics.median(values), 4)


def run(overrides: list[str]) -> dict[str, float]:
    """Seconds of one run by phase, and from the first line to the last; its last training loss."""
    return _timed(overrides)[0]


def run_in_mode(overrides: list[str]) -> dict[str, Any]:
    """The same, and how its steps ran: a compiler or a capture that gives up is seen in no time of its own."""
    phases, mode = _timed(overrides)
    return phases | {"mode": mode}


def _timed(overrides: list[str]) -> tuple[dict[str, float], str | None]:
    settings = settings_of(overrides)
    start = time.perf_counter()
    record = pipeline.run(settings)
    wall = time.perf_counter() - start
    phases = {key: getattr(record.seconds, key) for key in ("setup_s", "train_s", "evaluate_s")}
    loss = {"last_loss": record.curves.train_loss[-1]}
    return {key: round(value, 3) for key, value in (phases | {"wall_s": wall}).items()} | loss, record.speed.mode


def _fill_cache(overrides: list[str]) -> None:
    inputs = prepare(settings_of(overrides))
    for split in (inputs.plan.train, inputs.plan.final):
        inputs.task.splits[split].read(torch.tensor([0]))


def _alone(overrides: list[str]) -> dict[str, float]:
    """The same steps on batches that stand ready, with nothing around them, and the same test pass."""
    inputs = prepare(settings_of(overrides))
    model = inputs.model(Streams(0), {})
    ready = list(inputs.batches(inputs.plan.train, train=True).epoch(torch.Generator().manual_seed(0)))
    step = trainer(model, autocast=False)
    step(*ready[-1])
    start = time.perf_counter()
    for _ in range(inputs.settings.recipe.epochs):
        for x, y in ready:
            step(x, y)
    steps_s = time.perf_counter() - start
    test = [x for x, _ in inputs.batches(inputs.plan.final).epoch(None)]
    with merged(model):
        return {"steps_s": round(steps_s, 3), "test_s": round(_pass(model, test), 3)}


@torch.inference_mode()
def _pass(model: nn.Module, batches: list[torch.Tensor]) -> float:
    model.eval()
    start = time.perf_counter()
    for x in batches:
        model(x)
    return time.perf_counter() - start


def image_folder(home: Path, images: int) -> None:
    """A task as it lies on a disk: PNG files, as many to train on as to test on, and the lists that name them."""
    (home / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    lines = []
    for number in range(2 * images):
        name = f"images/{number:04d}.png"
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(home / name)
        lines.append(f"{name} {number % 100}\n")
    train, test = lines[:images], lines[images:]
    cut = images * 4 // 5
    parts = {"train800": train[:cut], "val200": train[cut:], "train800val200": train, "test": test}
    for name, part in parts.items():
        (home / f"{name}.txt").write_text("".join(part))
