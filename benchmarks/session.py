"""What is still to be measured on a GPU, the most wanted first: python -m benchmarks.session [out=FOLDER] [minutes=30] [tiny=true]

Each piece is a process with a time limit, writes its JSON as it ends, and is left out where that is there already: the same
command goes on. A piece that fails or is cut off leaves its rows so far in <piece>_unfinished.json, and the next begins; the
same command tries it again, from those rows where each stands for itself. Page and plot are drawn from what there is.
tiny=true: all pieces in their smallest size, wherever torch runs, to find what would cost minutes of a GPU.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks import gpu, many_runs, memory, page, plot, tasks19
from benchmarks.asked import RESULTS
from benchmarks.measure import Keep
from benchmarks.measuring import machine, saved, write_result
from benchmarks.rows import Case
from karst_bench.cli.app import call

VIT, SWIN, LARGE, HUGE = (
    "vit_base_patch16_224", "swin_base_patch4_window7_224", "vit_large_patch16_224", "vit_huge_patch14_224",
)  # fmt: skip
SLOW = ("karst_all", "lora_all", "snell", "snella", "ssf", "vera", "spt_lora", "spt_adapter", "vpt_deep", "vpt_shallow",
        "karst", "lora", "noah", "bitfit")  # fmt: skip
SMALL = ["backbone=vit_mini", "backbone.weights=none", "device=cpu", "precision=fp32", "backbone.model_args.depth=1"]


TO_END_S = 20  # for what a piece started to end, once its time is over


@dataclass(frozen=True)
class Work:
    """tiny: the smallest size; keep: takes the rows so far; before: the rows of an attempt on this machine that was cut off."""

    tiny: bool
    keep: Keep
    before: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Piece:
    """limit_s: where it is cut off; measure(work) gives the result. takes_s: about what it takes, where its rows do not stand for
    themselves, so that it is begun only with so much left."""

    limit_s: int
    measure: Callable[[Work], dict[str, Any]]
    takes_s: int = 20


def _case(tiny: bool, model: str, batch: int) -> Case:
    if not tiny:
        return Case(model, batch)
    return Case("vit_tiny_patch16_224", 1, 1) if model != SWIN else Case("swin_tiny_patch4_window7_224", 1)


def _steps(work: Work, model: str, batch: int, only: Sequence[str] | None = None) -> dict[str, Any]:
    backend, rounds = ("aot_eager", 1) if work.tiny else ("inductor", 10)
    return gpu.measured(_case(work.tiny, model, batch), rounds, _device(), backend, only=only, keep=work.keep, before=work.before)


def _methods(work: Work, model: str, batch: int, only: Sequence[str] | None = None) -> dict[str, Any]:
    case, rounds = _case(work.tiny, model, batch), 1 if work.tiny else 5
    return gpu.methods(case, rounds, _device(), only=only, modes=("captured",), keep=work.keep, before=work.before)


def _long(work: Work, speed: str) -> dict[str, Any]:
    size: dict[str, Any] = {"images": 10, "epochs": 1, "more": SMALL, "only": ["eager"]} if work.tiny else {"only": [speed]}
    return gpu.long_run(**size, keep=work.keep)


def _memory(work: Work) -> dict[str, Any]:
    return memory.on_device([_case(work.tiny, LARGE, 256), _case(work.tiny, HUGE, 64)], _device(), work.keep)


def _forms(work: Work) -> dict[str, Any]:
    size: dict[str, Any] = {"rounds": 1, "tokens": [64]} if work.tiny else {"rounds": 10}
    return gpu.forms(device=_device(), keep=work.keep, **size)


def _many(work: Work) -> dict[str, Any]:
    size: dict[str, Any] = {}
    if work.tiny:
        size = {"processes": (1, 2), "runs": 1, "more": ["recipe.epochs=1", "recipe.batch=500", *SMALL]}
    return many_runs.measured(**size, keep=work.keep)


def _tasks(work: Work) -> dict[str, Any]:
    size: dict[str, Any] = {"more": ["speed=compile"]}
    if work.tiny:
        size = {"tasks": ["vtab/dtd"], "shrink": 100, "more": [*SMALL, "recipe.epochs=1", "recipe.batch=500"]}
    return tasks19.measured(**size, keep=work.keep, before=work.before)


KARST_STEPS = ("KARST, ours", "KARST, nothing made again", "KARST, ours, recompute", "LoRA qkv r 8, ours",
               "LoRA on four linears r 8, ours", "LoRA on four linears r 8, peft")  # fmt: skip
PIECES = {
    f"gpu_{VIT}_b64": Piece(420, lambda work: _steps(work, VIT, 64, KARST_STEPS[:1] if work.tiny else KARST_STEPS)),
    "gpu_long_run": Piece(420, lambda work: _long(work, "compile"), takes_s=240),
    "gpu_many_runs": Piece(420, _many, takes_s=280),
    f"gpu_slow_methods_{VIT}_b64": Piece(240, lambda work: _methods(work, VIT, 64, SLOW)),
    "gpu_memory": Piece(200, _memory, takes_s=100),
    "gpu_tasks19": Piece(900, _tasks),
    "gpu_forms": Piece(120, _forms, takes_s=60),
    f"gpu_slow_methods_{SWIN}_b64": Piece(240, lambda work: _methods(work, SWIN, 64, ("bitfit", "vpt_deep", "karst"))),
    f"gpu_{SWIN}_b64": Piece(400, lambda work: _steps(work, SWIN, 64, ("KARST, ours", "LoRA qkv r 8, ours"))),
    f"gpu_methods_{SWIN}_b64": Piece(500, lambda work: _methods(work, SWIN, 64, ("lora",) if work.tiny else None)),
}  # fmt: skip


def measure(out: Path = RESULTS, minutes: float = 30.0, tiny: bool = False, piece: str = "") -> None:
    """Measures what is not there yet, in order, for so many minutes. piece: that one alone, in this process."""
    if piece:
        _measure_piece(out, piece, tiny)
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
        elif left < wanted.takes_s:
            print(f"{name}: {max(left, 0):.0f} s left, it takes {wanted.takes_s}; the same command goes on here")
        else:
            print(f"{name}: {_piece(name, out, tiny, min(left, wanted.limit_s))}", flush=True)
    plot.draw(out)
    page.write(out)


def _measure_piece(out: Path, piece: str, tiny: bool) -> None:
    unfinished = out / f"{piece}_unfinished.json"
    here, before = machine(), json.loads(unfinished.read_text()) if unfinished.exists() else {}
    rows = {name: row for name, row in before["rows"].items() if "failed" not in row} if before.get("machine") == here else {}
    work = Work(tiny, lambda result: saved(unfinished, {"machine": here, "unfinished": True} | result), rows)
    write_result(out, piece, PIECES[piece].measure(work))
    unfinished.unlink(missing_ok=True)


def _piece(name: str, out: Path, tiny: bool, limit_s: float) -> str:
    """One piece in a process of its own; what to say of it."""
    start = time.monotonic()
    command = [sys.executable, "-m", "benchmarks.session", f"piece={name}", f"out={out}", f"tiny={str(tiny).lower()}"]
    code = run_for(command, limit_s)
    if code is None:
        return f"cut off after {limit_s:.0f} s"
    return f"{time.monotonic() - start:.0f} s" if code == 0 else f"failed with exit code {code}"


def run_for(command: Sequence[str], limit_s: float) -> int | None:
    """The command's exit code, None where it was cut off. Nothing that it started outlives it: it is asked to end first."""
    process = subprocess.Popen(command, start_new_session=True)
    try:
        return process.wait(limit_s)
    except subprocess.TimeoutExpired:
        return None
    finally:
        with suppress(subprocess.TimeoutExpired):
            process.terminate()
            process.wait(TO_END_S)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def main(words: Sequence[str]) -> int:
    """0 done, 2 bad input."""
    return call(measure, words, "python -m benchmarks.session")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # whatever is open is closed on the way out
    raise SystemExit(main(sys.argv[1:]))
