"""What is still to be measured on a GPU, the most wanted first: python -m benchmarks.session [out=FOLDER] [minutes=30] [tiny=true]

Each piece is a process with a time limit, writes its JSON as it ends, and is left out where that is there already: the same
command goes on. A piece that fails or is cut off is a line, and the next begins. Page and plot are drawn from what there is.
tiny=true: all pieces in their smallest size, wherever torch runs, to find what would cost minutes of a GPU.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import gpu, many_runs, memory, page, plot, tasks19
from benchmarks.asked import RESULTS
from benchmarks.measuring import write_result
from benchmarks.rows import Case
from karst_bench.cli.app import call

VIT, SWIN, LARGE, HUGE = (
    "vit_base_patch16_224", "swin_base_patch4_window7_224", "vit_large_patch16_224", "vit_huge_patch14_224",
)  # fmt: skip
SLOW = ("karst_all", "lora_all", "snell", "snella", "ssf", "vera", "spt_lora", "spt_adapter", "vpt_deep", "vpt_shallow",
        "karst", "lora", "noah", "bitfit")  # fmt: skip
SMALL = ["backbone=vit_mini", "backbone.weights=none", "device=cpu", "precision=fp32", "backbone.model_args.depth=1"]


@dataclass(frozen=True)
class Piece:
    """limit_s: where it is cut off; measure(tiny) gives the result."""

    limit_s: int
    measure: Callable[[bool], dict[str, Any]]


def _case(tiny: bool, model: str, batch: int) -> Case:
    if not tiny:
        return Case(model, batch)
    return Case("vit_tiny_patch16_224", 1, 1) if model != SWIN else Case("swin_tiny_patch4_window7_224", 1)


def _steps(tiny: bool, model: str, batch: int, only: Sequence[str] | None = None) -> dict[str, Any]:
    backend = "aot_eager" if tiny else "inductor"
    return gpu.measured(_case(tiny, model, batch), 1 if tiny else 10, _device(), backend, only=only)


def _methods(tiny: bool, model: str, batch: int, only: Sequence[str] | None = None) -> dict[str, Any]:
    return gpu.methods(_case(tiny, model, batch), 1 if tiny else 5, _device(), only=only, modes=("captured",))


def _long(tiny: bool, speed: str) -> dict[str, Any]:
    return gpu.long_run(10, 1, SMALL, only=["eager"]) if tiny else gpu.long_run(only=[speed])


def _memory(tiny: bool) -> dict[str, Any]:
    return memory.on_device([_case(tiny, LARGE, 256), _case(tiny, HUGE, 64)], _device())


def _forms(tiny: bool) -> dict[str, Any]:
    return gpu.forms(1, _device(), tokens=[64]) if tiny else gpu.forms(10, _device())


def _many(tiny: bool) -> dict[str, Any]:
    return many_runs.measured((1, 2), 1, ["recipe.epochs=1", "recipe.batch=500", *SMALL]) if tiny else many_runs.measured()


def _tasks(tiny: bool) -> dict[str, Any]:
    if tiny:
        return tasks19.measured(["vtab/dtd"], 100, [*SMALL, "recipe.epochs=1", "recipe.batch=500"])
    return tasks19.measured(more=["speed=compile"])


KARST_STEPS = ("KARST, ours", "KARST, nothing made again", "KARST, ours, recompute", "LoRA qkv r 8, ours",
               "LoRA on four linears r 8, ours", "LoRA on four linears r 8, peft")  # fmt: skip
PIECES = {
    f"gpu_{VIT}_b64": Piece(420, lambda tiny: _steps(tiny, VIT, 64, KARST_STEPS[:1] if tiny else KARST_STEPS)),
    "gpu_long_run": Piece(420, lambda tiny: _long(tiny, "compile")),
    f"gpu_slow_methods_{VIT}_b64": Piece(240, lambda tiny: _methods(tiny, VIT, 64, SLOW)),
    "gpu_forms": Piece(120, _forms),
    "gpu_many_runs": Piece(300, _many),
    f"gpu_slow_methods_{SWIN}_b64": Piece(240, lambda tiny: _methods(tiny, SWIN, 64, ("bitfit", "vpt_deep", "karst"))),
    "gpu_memory": Piece(200, _memory),
    "gpu_tasks19": Piece(900, _tasks),
    f"gpu_{SWIN}_b64": Piece(400, lambda tiny: _steps(tiny, SWIN, 64, ("KARST, ours", "LoRA qkv r 8, ours"))),
    f"gpu_methods_{SWIN}_b64": Piece(500, lambda tiny: _methods(tiny, SWIN, 64, ("lora",) if tiny else None)),
}  # fmt: skip


def measure(out: Path = RESULTS, minutes: float = 30.0, tiny: bool = False, piece: str = "") -> None:
    """Measures what is not there yet, in order, for so many minutes. piece: that one alone, in this process."""
    if piece:
        write_result(out, piece, PIECES[piece].measure(tiny))
        return
    if not torch.cuda.is_available() and not tiny:
        print("torch sees no CUDA device here; tiny=true tries every piece out on a CPU")
        return
    out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * minutes
    for name, wanted in PIECES.items():
        left = end - time.monotonic()
        if (out / f"{name}.json").exists():
            print(f"{name}: measured before")
        elif left < 20:
            print(f"{name}: no time left; the same command goes on here")
        else:
            print(f"{name}: {_piece(name, out, tiny, min(left, wanted.limit_s))}", flush=True)
    plot.draw(out)
    page.write(out)


def _piece(name: str, out: Path, tiny: bool, limit_s: float) -> str:
    """One piece in a process of its own; what to say of it."""
    start = time.monotonic()
    command = [sys.executable, "-m", "benchmarks.session", f"piece={name}", f"out={out}", f"tiny={str(tiny).lower()}"]
    try:
        code = subprocess.run(command, timeout=limit_s, check=False).returncode
    except subprocess.TimeoutExpired:
        return f"cut off after {limit_s:.0f} s"
    return f"{time.monotonic() - start:.0f} s" if code == 0 else f"failed with exit code {code}"


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def main(words: Sequence[str]) -> int:
    """0 done, 2 bad input."""
    return call(measure, words, "python -m benchmarks.session")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
