"""One of the two small backbones, from images to its file of weights."""

import json
import time
from pathlib import Path
from typing import Any

import timm
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from karst_bench.errors import UserError
from scripts.pretraining.images import read_cifar10
from scripts.pretraining.objective import Questions, features
from scripts.pretraining.scenes import make_scenes
from scripts.pretraining.train import Material, Plan, Pretraining, top1_pct, write_tensors

CONF = Path(__file__).parents[2] / "conf" / "backbone"


def pretrained(
    images: Path, name: str, out: Path, plan: Plan, *, scenes: int, device: str, threads: int, workers: int
) -> dict[str, Any]:
    """Pre-trains and measures; <out>/<name>.safetensors holds the weights, .json the facts that are returned.

    Raises: UserError for an unknown backbone or device.
    """
    conf, place = _settings(name), pick_device(device)
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(plan.seed)
    began = time.monotonic()
    photos, labels = map(torch.from_numpy, read_cifar10(images, "train"))
    drawn = make_scenes(scenes, plan.seed, workers)
    log(f"{len(photos)} photographs, {len(drawn.pixels)} scenes in {time.monotonic() - began:.0f} s")
    model, heads = _model(conf, labels)
    mean, std = tuple(conf["mean"]), tuple(conf["std"])
    training = Pretraining(
        model, heads, Material.of(photos, labels, drawn, place), plan,
        mean=mean, std=std, checkpoint=out / f"{name}.checkpoint.safetensors", log=log,
    )  # fmt: skip
    training.run()
    test = (torch.from_numpy(array).to(place) for array in read_cifar10(images, "test"))
    measured = {"cifar10_test_top1_pct": round(top1_pct(model, heads, *test, mean, std), 2)}
    facts = {"backbone": name} | _asked(plan, scenes) | _found(training) | measured | _machine(place)
    half = {key: value.half() for key, value in model.state_dict().items()}
    facts["sha256"] = write_tensors(out / f"{name}.safetensors", half, {"format": "pt", "tag": conf["tag"]})
    (out / f"{name}.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    log(json.dumps(facts))
    return facts


def pick_device(wanted: str) -> torch.device:
    """auto takes CUDA where there is one. Raises: UserError for another word, or cuda without a device."""
    if wanted not in ("auto", "cpu", "cuda"):
        raise UserError(f"device={wanted} is not known; choose auto, cpu or cuda")
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda: PyTorch sees no CUDA device here; leave it out, or give device=cpu")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def log(line: str) -> None:
    """One line of progress, at once."""
    print(line, flush=True)


def _settings(name: str) -> dict[str, Any]:
    if not (CONF / f"{name}.yaml").is_file():
        raise UserError(f"backbone={name} is not known; choose vit_mini or swin_mini")
    conf = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))
    assert isinstance(conf, dict)
    return {str(key): value for key, value in conf.items()}


def _model(conf: dict[str, Any], labels: Tensor) -> tuple[nn.Module, Questions]:
    model = timm.create_model(conf["timm_name"], num_classes=0, **conf["model_args"])
    side = features(model, torch.zeros(1, 3, conf["input_size"], conf["input_size"]))[1].shape[1]
    return model, Questions(model.num_features, side, int(labels.max()) + 1)


def _asked(plan: Plan, scenes: int) -> dict[str, Any]:
    return {"steps": plan.steps, "photos_a_step": plan.photos, "scenes_a_step": plan.scenes, "scenes": scenes, "lr": plan.lr,
            "weight_decay": plan.weight_decay, "warmup_share": plan.warmup, "seed": plan.seed}  # fmt: skip


def _found(training: Pretraining) -> dict[str, Any]:
    losses = {key: round(float(value), 4) for key, value in training.losses.items()}
    passes = round(training.plan.steps / training.epoch_steps, 1)
    return {"passes": passes, "last_losses": losses, "train_s": round(training.seconds, 1)}


def _machine(device: torch.device) -> dict[str, str]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return {"device": name, "torch": torch.__version__, "timm": timm.__version__}
