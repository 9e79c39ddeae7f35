"""Pre-trains one of the two small backbones and writes its weights, fp16, without a head.

    python scripts/pretrain_mini.py images=PATH backbone=vit_mini out=karst_bench/weights

images: CIFAR-10 (cifar-10-binary.tar.gz, its folder, or train.npz + test.npz); backbone: vit_mini | swin_mini; epochs;
out: folder of the weights and of the checkpoint, from which a broken run goes on; threads; seed; scenes: number of
pretext scenes; lr, weight_decay. Writes <out>/<backbone>.safetensors and <out>/<backbone>.json (what was measured).
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import timm
import torch
from omegaconf import OmegaConf

from karst_bench.errors import UserError
from scripts.pretraining.images import read_cifar10
from scripts.pretraining.objective import Questions, features
from scripts.pretraining.scenes import make_scenes
from scripts.pretraining.train import Material, Plan, Pretraining, top1_pct, write_tensors

DEFAULTS = {
    "images": None, "backbone": "vit_mini", "epochs": 8, "out": "outputs/pretrain_mini", "threads": 1, "seed": 0,
    "scenes": 40000, "lr": 1.5e-3, "weight_decay": 0.05,
}  # fmt: skip
BACKBONES = Path(__file__).parents[1] / "conf" / "backbone"


def options(arguments: list[str]) -> dict[str, Any]:
    """The defaults, changed by key=value arguments. Raises: UserError for an unknown key or no images."""
    given = OmegaConf.to_container(OmegaConf.from_dotlist(arguments))
    assert isinstance(given, dict)
    unknown = sorted(set(map(str, given)) - set(DEFAULTS))
    if unknown:
        raise UserError(f"unknown argument {unknown[0]!r}; known are {', '.join(DEFAULTS)}")
    chosen = DEFAULTS | {str(key): value for key, value in given.items()}
    if chosen["images"] is None:
        raise UserError("images=PATH is missing: give cifar-10-binary.tar.gz, its folder, or a folder with train.npz")
    return chosen


def main(arguments: list[str]) -> None:
    """Reads the photographs, draws the scenes, trains, measures, writes."""
    chosen = options(arguments)
    torch.set_num_threads(int(chosen["threads"]))
    torch.manual_seed(int(chosen["seed"]))
    out, name = Path(chosen["out"]), str(chosen["backbone"])
    conf = OmegaConf.to_container(OmegaConf.load(BACKBONES / f"{name}.yaml"))
    assert isinstance(conf, dict)
    mean, std = tuple(conf["mean"]), tuple(conf["std"])
    began = time.monotonic()
    photos, labels = map(torch.from_numpy, read_cifar10(Path(chosen["images"]), "train"))
    scenes = make_scenes(int(chosen["scenes"]), int(chosen["seed"]))
    log(f"{len(photos)} photographs, {len(scenes.pixels)} scenes in {time.monotonic() - began:.0f} s")
    model = timm.create_model(conf["timm_name"], num_classes=0, **conf["model_args"])
    side = features(model, torch.zeros(1, 3, conf["input_size"], conf["input_size"]))[1].shape[1]
    heads = Questions(model.num_features, side, int(labels.max()) + 1)
    plan = Plan(int(chosen["epochs"]), float(chosen["lr"]), float(chosen["weight_decay"]), int(chosen["seed"]))
    material = Material.of(photos, labels, scenes)
    checkpoint = out / f"{name}.checkpoint.safetensors"
    training = Pretraining(model, heads, material, plan, mean=mean, std=std, checkpoint=checkpoint, log=log)
    training.run()
    test = map(torch.from_numpy, read_cifar10(Path(chosen["images"]), "test"))
    facts = {"backbone": name, **{key: chosen[key] for key in DEFAULTS if key not in ("images", "out", "backbone")}}
    facts |= {"cifar10_test_top1_pct": top1_pct(model, heads, *test, mean, std), "train_s": round(training.seconds, 1)}
    half = {key: value.half() for key, value in model.state_dict().items()}
    facts["sha256"] = write_tensors(out / f"{name}.safetensors", half, {"format": "pt", "tag": conf["tag"]})
    (out / f"{name}.json").write_text(json.dumps(facts, indent=2) + "\n")
    log(json.dumps(facts))


def log(line: str) -> None:
    """One line of progress, at once."""
    print(line, flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
