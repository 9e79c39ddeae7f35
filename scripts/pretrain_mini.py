"""Pre-trains one of the two small backbones and writes its weights, fp16, without a head.

    python scripts/pretrain_mini.py images=PATH backbone=vit_mini out=outputs/pretrain_mini device=cuda

On a GPU a step is one captured graph, its matrix products in TF32. The checkpoint lies in out= beside the weights, and a
broken run goes on from it. Writes <out>/<backbone>.safetensors and <out>/<backbone>.json (what was done and measured).
"""

import json
import time
from pathlib import Path
from typing import Annotated, Any

import timm
import torch
import typer
from omegaconf import OmegaConf

from karst_bench.cli.app import generator
from karst_bench.errors import UserError
from scripts.pretraining.images import read_cifar10
from scripts.pretraining.objective import Questions, features
from scripts.pretraining.scenes import make_scenes
from scripts.pretraining.train import Material, Plan, Pretraining, top1_pct, write_tensors

BACKBONES = Path(__file__).parents[1] / "conf" / "backbone"
Count = Annotated[int, typer.Option(min=1)]
Images = Annotated[Path, typer.Argument(help="CIFAR-10: cifar-10-binary.tar.gz, its folder, or train.npz and test.npz.")]


def pick_device(wanted: str) -> torch.device:
    """auto takes CUDA where there is one. Raises: UserError for another word, or cuda without a device."""
    if wanted not in ("auto", "cpu", "cuda"):
        raise UserError(f"device={wanted} is not known; choose auto, cpu or cuda")
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda: PyTorch sees no CUDA device here; leave it out, or give device=cpu")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def pretrain(
    images: Images,
    backbone: str = "vit_mini",
    out: Path = Path("outputs/pretrain_mini"),
    device: str = "auto",
    threads: Count = 1,
    workers: Annotated[int, typer.Option(min=1, help="Processes that draw the scenes.")] = 1,
    steps: Count = 40000,
    photos_a_step: Count = 256,
    scenes_a_step: Count = 128,
    scenes: Annotated[int, typer.Option(min=1, help="Pretext scenes to draw.")] = 120000,
    lr: float = 2e-3,
    weight_decay: float = 0.05,
    warmup_share: float = 0.04,
    seed: int = 0,
) -> dict[str, Any]:
    """Pre-train vit_mini or swin_mini on photographs and drawn scenes. Weights, checkpoint and facts go to out=."""
    if not (BACKBONES / f"{backbone}.yaml").is_file():
        raise UserError(f"backbone={backbone} is not known; choose vit_mini or swin_mini")
    place = pick_device(device)
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(seed)
    name = backbone
    conf = OmegaConf.to_container(OmegaConf.load(BACKBONES / f"{name}.yaml"))
    assert isinstance(conf, dict)
    mean, std = tuple(conf["mean"]), tuple(conf["std"])
    began = time.monotonic()
    photos, labels = map(torch.from_numpy, read_cifar10(images, "train"))
    drawn = make_scenes(scenes, seed, workers)
    log(f"{len(photos)} photographs, {len(drawn.pixels)} scenes in {time.monotonic() - began:.0f} s")
    model = timm.create_model(conf["timm_name"], num_classes=0, **conf["model_args"])
    side = features(model, torch.zeros(1, 3, conf["input_size"], conf["input_size"]))[1].shape[1]
    heads = Questions(model.num_features, side, int(labels.max()) + 1)
    plan = Plan(steps, photos_a_step, scenes_a_step, lr, weight_decay, warmup_share, seed)
    training = Pretraining(
        model, heads, Material.of(photos, labels, drawn, place), plan,
        mean=mean, std=std, checkpoint=out / f"{name}.checkpoint.safetensors", log=log,
    )  # fmt: skip
    training.run()
    test = (torch.from_numpy(array).to(place) for array in read_cifar10(images, "test"))
    facts: dict[str, Any] = {"backbone": name, "steps": steps, "photos_a_step": photos_a_step, "scenes_a_step": scenes_a_step}
    facts |= {"scenes": scenes, "lr": lr, "weight_decay": weight_decay, "warmup_share": warmup_share, "seed": seed}
    facts |= {"passes": round(training.plan.steps / training.epoch_steps, 1)}
    facts |= {"cifar10_test_top1_pct": round(top1_pct(model, heads, *test, mean, std), 2)}
    facts |= {"last_losses": {key: round(float(value), 4) for key, value in training.losses.items()}}
    facts |= {"train_s": round(training.seconds, 1), "device": device_name(place), "torch": torch.__version__,
              "timm": timm.__version__}  # fmt: skip
    half = {key: value.half() for key, value in model.state_dict().items()}
    facts["sha256"] = write_tensors(out / f"{name}.safetensors", half, {"format": "pt", "tag": conf["tag"]})
    (out / f"{name}.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    log(json.dumps(facts))
    return facts


def device_name(device: torch.device) -> str:
    """What a device is called."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def log(line: str) -> None:
    """One line of progress, at once."""
    print(line, flush=True)


if __name__ == "__main__":
    generator(pretrain)
