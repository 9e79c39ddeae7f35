"""Pre-trains one of the two small backbones and writes its weights, fp16, without a head.

    python scripts/pretrain_mini.py images=PATH backbone=vit_mini out=outputs/pretrain_mini device=cuda

On a GPU a step is one captured graph, its matrix products in TF32. The checkpoint lies in out= beside the weights, and a
broken run goes on from it. Writes <out>/<backbone>.safetensors and <out>/<backbone>.json (what was done and measured).
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from karst_bench.cli.app import generator

Count = Annotated[int, typer.Option(min=1)]
Images = Annotated[Path, typer.Argument(help="CIFAR-10: cifar-10-binary.tar.gz, its folder, or train.npz and test.npz.")]


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
    from scripts.pretraining.backbone import pretrained  # torch, which --help does without
    from scripts.pretraining.train import Plan

    plan = Plan(steps, photos_a_step, scenes_a_step, lr, weight_decay, warmup_share, seed)
    return pretrained(images, backbone, out, plan, scenes=scenes, device=device, threads=threads, workers=workers)


if __name__ == "__main__":
    generator(pretrain)
