"""Pre-trains one of the two small backbones and writes its weights, fp16, without a head.

    python scripts/pretrain_mini.py images=PATH backbone=vit_mini out=outputs/pretrain_mini device=cuda

images: CIFAR-10 (cifar-10-binary.tar.gz, its folder, or train.npz + test.npz); backbone: vit_mini | swin_mini; steps,
photos and scenes in each (photos_a_step, scenes_a_step); scenes: number of pretext scenes; workers: processes that draw
them; lr, weight_decay, warmup_share; seed; out: folder of the weights and of the checkpoint, from which a broken run
goes on; device: auto | cpu | cuda (there a step is one captured graph, its matrix products in TF32); threads (CPU).
Writes <out>/<backbone>.safetensors and <out>/<backbone>.json (what was done and measured).
"""

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
    "images": None, "backbone": "vit_mini", "out": "outputs/pretrain_mini", "device": "auto", "threads": 1, "workers": 1,
    "steps": 40000, "photos_a_step": 256, "scenes_a_step": 128, "scenes": 120000, "lr": 2e-3, "weight_decay": 0.05,
    "warmup_share": 0.04, "seed": 0,
}  # fmt: skip
RECIPE = ("steps", "photos_a_step", "scenes_a_step", "scenes", "lr", "weight_decay", "warmup_share", "seed")
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


def pick_device(wanted: str) -> torch.device:
    """auto takes CUDA where there is one. Raises: UserError for another word, or cuda without a device."""
    if wanted not in ("auto", "cpu", "cuda"):
        raise UserError(f"device={wanted} is not known; choose auto, cpu or cuda")
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda: PyTorch sees no CUDA device here; leave it out, or give device=cpu")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def main(arguments: list[str]) -> dict[str, Any]:
    """Reads the photographs, draws the scenes, trains, measures, writes; returns what it wrote down."""
    chosen = options(arguments)
    device = pick_device(str(chosen["device"]))
    torch.set_num_threads(int(chosen["threads"]))
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(int(chosen["seed"]))
    out, name, images = Path(chosen["out"]), str(chosen["backbone"]), Path(chosen["images"])
    conf = OmegaConf.to_container(OmegaConf.load(BACKBONES / f"{name}.yaml"))
    assert isinstance(conf, dict)
    mean, std = tuple(conf["mean"]), tuple(conf["std"])
    began = time.monotonic()
    photos, labels = map(torch.from_numpy, read_cifar10(images, "train"))
    scenes = make_scenes(int(chosen["scenes"]), int(chosen["seed"]), int(chosen["workers"]))
    log(f"{len(photos)} photographs, {len(scenes.pixels)} scenes in {time.monotonic() - began:.0f} s")
    model = timm.create_model(conf["timm_name"], num_classes=0, **conf["model_args"])
    side = features(model, torch.zeros(1, 3, conf["input_size"], conf["input_size"]))[1].shape[1]
    heads = Questions(model.num_features, side, int(labels.max()) + 1)
    training = Pretraining(
        model, heads, Material.of(photos, labels, scenes, device), plan(chosen),
        mean=mean, std=std, checkpoint=out / f"{name}.checkpoint.safetensors", log=log,
    )  # fmt: skip
    training.run()
    test = (torch.from_numpy(array).to(device) for array in read_cifar10(images, "test"))
    facts = {"backbone": name} | {key: chosen[key] for key in RECIPE}
    facts |= {"passes": round(training.plan.steps / training.epoch_steps, 1)}
    facts |= {"cifar10_test_top1_pct": round(top1_pct(model, heads, *test, mean, std), 2)}
    facts |= {"last_losses": {key: round(float(value), 4) for key, value in training.losses.items()}}
    facts |= {"train_s": round(training.seconds, 1), "device": device_name(device), "torch": torch.__version__,
              "timm": timm.__version__}  # fmt: skip
    half = {key: value.half() for key, value in model.state_dict().items()}
    facts["sha256"] = write_tensors(out / f"{name}.safetensors", half, {"format": "pt", "tag": conf["tag"]})
    (out / f"{name}.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    log(json.dumps(facts))
    return facts


def plan(chosen: dict[str, Any]) -> Plan:
    """The plan that the options name. Raises: UserError for a number of steps below 1."""
    if int(chosen["steps"]) < 1:
        raise UserError(f"steps={chosen['steps']} must be at least 1")
    return Plan(
        steps=int(chosen["steps"]), photos=int(chosen["photos_a_step"]), scenes=int(chosen["scenes_a_step"]),
        lr=float(chosen["lr"]), weight_decay=float(chosen["weight_decay"]), warmup=float(chosen["warmup_share"]),
        seed=int(chosen["seed"]),
    )  # fmt: skip


def device_name(device: torch.device) -> str:
    """What a device is called."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def log(line: str) -> None:
    """One line of progress, at once."""
    print(line, flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
