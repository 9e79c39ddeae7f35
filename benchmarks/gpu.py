"""The same steps on a GPU: bf16, eager and compiled into CUDA graphs, and one long run. Nothing is written without a GPU."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.measure import interleaved, summary, training_step
from benchmarks.phases import image_folder, run
from benchmarks.rows import CLASSES, ROWS, Case
from benchmarks.steps import counted, memory
from karst_bench.engine.compiled import compile_step

BATCHES = (32, 64)
EAGER = ("floor", "floor again (A/A)", "LoRA qkv r 8, ours", "LoRA qkv r 8, peft", "KARST, published arithmetic (a)",
         "KARST, ours, all tokens", "KARST, ours", "full")  # fmt: skip
COMPILED = ("floor", "LoRA qkv r 8, ours", "KARST, ours")
WARM = 5  # rounds before the first that counts: compiling, and recording the graphs


def measured(case: Case, rounds: int, device: torch.device) -> dict[str, Any]:
    """Steps of each row under bf16 autocast against the eager floor; wall seconds, the device waited for."""
    torch.manual_seed(1)
    nets = {name: ROWS[name](case).to(device) for name in EAGER}
    for name in COMPILED:
        nets[f"{name}, compiled"] = _compiled(ROWS[name](case).to(device), device)
    x = torch.randn(case.batch, 3, *_size(nets["floor"]), device=device)
    y = torch.randint(CLASSES, (case.batch,), device=device)
    steps = {name: training_step(net, x, y, autocast=True) for name, net in nets.items()}
    finish: Callable[[], object] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    table = summary(interleaved(steps, rounds, finish, WARM), "floor")
    # neither hooks nor the counter of operations see into a graph
    for name, kept in memory({name: nets[name] for name in EAGER}, x, autocast=True).items():
        table[name] |= counted(steps[name], device) | kept
    return {
        "what": "training step (forward, backward, fused AdamW), drop-path 0", "model": case.model, "depth": case.depth,
        "batch": case.batch, "rounds": rounds, "precision": "bf16", "clock": "wall", "rows": table,
    }  # fmt: skip


def long_run(images: int = 1000, epochs: int = 100, more: Sequence[str] = ()) -> dict[str, Any]:
    """Seconds by phase of a whole run of ViT-B/16 on images in the cache, eager and compiled."""
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        image_folder(home / "data" / "cifar", images)
        where = [f"paths.{name}={home / name}" for name in ("results", "outputs", "cache", "data")]
        words = ["method=karst", "dataset=vtab/cifar100", "backbone.weights=none", f"recipe.epochs={epochs}",
                 "save_adapter=false", *where, *more]  # fmt: skip
        run([*words, "recipe.epochs=1", "seed=1"])  # fills the cache
        for name, compiled in (("eager", "false"), ("compiled", "true")):
            rows[name] = run([*words, f"compile={compiled}"])
    return {"what": f"a whole run: {images} images of 224 px, {epochs} epochs, as many test images", "rows": rows}


def _compiled(net: nn.Module, device: torch.device) -> nn.Module:
    compile_step(net, [], device)
    return net


def _size(net: Any) -> tuple[int, int]:
    size: tuple[int, int] = net.patch_embed.img_size
    return size
