"""Writes benchmarks/results/<name>.json, a page and a plot; `make bench` writes to outputs/benchmarks instead.

python -m benchmarks                               every part: training steps of ViT-B/16 and Swin-B, evaluation passes,
                                                   forms of one layer, scaling, phases of whole runs, steps on a GPU
python -m benchmarks only=steps model=vit_base_patch16_224 batch=2 rounds=15
python -m benchmarks only=phases model=             the small run alone
python -m benchmarks only=steps "rows=KARST, ours;full" out=/tmp/trial
python -m benchmarks only=gpu_steps gpu_batch=64 model=vit_base_patch16_224
only=A,B  model=A,B  batch=2,4  gpu_batch=32,64  rounds=15  depth=2 (blocks; the whole model without it)  rows=A;B  out=FOLDER
Set OMP_NUM_THREADS=1 where other programs share the machine: the CPU clock then measures this program alone.
"""

import json
import platform
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import timm
import torch
import typer

from benchmarks import evaluation, forms, gpu, memory, page, phases, plot, scaling, steps
from benchmarks.rows import ROWS, Case
from karst_bench import files
from karst_bench.cli.app import call
from karst_bench.errors import UserError, nearest

RESULTS = Path(__file__).parent / "results"
ON_GPU = ("gpu_steps", "gpu_methods", "gpu_evaluation", "gpu_forms", "gpu_long_run")
PARTS = ("steps", "evaluation", "forms", "scaling", "phases", "memory", "gpu", *ON_GPU)
EVERY = PARTS[:7]  # gpu: all that is measured on one
SHOWN = re.compile(r"ratio|failed|runs_per_hour|speedup|last_loss|share|bytes|chosen|^(setup|train|evaluate|wall|steps|test)_s$")
Count = Annotated[int, typer.Option(min=1)]


@dataclass(frozen=True)
class Asked:
    """What to measure. Raises: UserError for a part, model, row or number that does not exist."""

    parts: list[str]
    models: list[str]
    batches: list[int]
    gpu_batches: list[int]
    rounds: int
    depth: int | None
    rows: list[str] | None
    out: Path

    @classmethod
    def of(
        cls, *, only: str, model: str, batch: str, gpu_batch: str, rows: str, rounds: int, depth: int | None, out: Path
    ) -> "Asked":  # fmt: skip
        """From words as they are typed, several parted by commas, rows by semicolons."""
        lists = {"only": _parts(only, ","), "model": _parts(model, ","), "rows": _parts(rows, ";")}
        for key, known in {"only": PARTS, "model": timm.list_models(), "rows": list(ROWS)}.items():
            for part in lists[key]:
                if part not in known:
                    shown = f" Known: {'; '.join(known)}" if len(known) < 20 else ""
                    raise UserError(f"{key}={part} does not exist{nearest(part, known) or '.'}{shown}")
        batches, gpu_batches = _counts("batch", batch), _counts("gpu_batch", gpu_batch)
        return cls(lists["only"], lists["model"], batches, gpu_batches, rounds, depth, lists["rows"] or None, out)

    @property
    def cases(self) -> list[Case]:
        return [Case(model, batch, self.depth) for model in self.models for batch in self.batches]


def machine() -> dict[str, Any]:
    """What the figures hold for."""
    cpu = next(
        (line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.processor()
    )
    return {
        "cpu": cpu, "capability": torch.backends.cpu.get_cpu_capability(), "threads": torch.get_num_threads(),
        "torch": torch.__version__, "python": platform.python_version(), "system": platform.system(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "not measured: none here",
    }  # fmt: skip


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def measure(asked: Asked) -> None:
    write = partial(write_result, asked.out)
    for case in asked.cases:
        name = f"{case.model}_b{case.batch}" + (f"_depth{case.depth}" if case.depth else "")
        if "steps" in asked.parts:
            write(f"steps_{name}", steps.measured(case, asked.rounds, asked.rows))
        if "evaluation" in asked.parts:
            write(f"evaluation_{name}", evaluation.measured(case, asked.rounds))
    if "forms" in asked.parts:
        write("forms", forms.measured(asked.rounds))
    if "scaling" in asked.parts:
        write("scaling", scaling.measured(asked.rounds))
    if "phases" in asked.parts:
        write("phases", phases.measured(large="vit_base_patch16_224" in asked.models))
    if "memory" in asked.parts:
        counted = memory.measured(memory.CASES if asked.depth is None else asked.cases)
        print("memory: not counted, this torch asks a CUDA driver") if counted is None else write("memory", counted)
    if {"gpu", *ON_GPU} & {*asked.parts}:
        _measure_gpu(asked, write)
    plot.draw(asked.out)
    page.write(asked.out)


def _measure_gpu(asked: Asked, write: Callable[[str, dict[str, Any]], None]) -> None:
    if not torch.cuda.is_available():
        print("gpu: not measured, torch sees no CUDA device here")
        return
    device, parts = torch.device("cuda"), ON_GPU if "gpu" in asked.parts else asked.parts
    for model in asked.models:
        cases = [Case(model, batch, asked.depth) for batch in asked.gpu_batches]
        for case in cases if "gpu_steps" in parts else []:
            write(f"gpu_{model}_b{case.batch}", gpu.measured(case, asked.rounds, device, only=asked.rows))
        if "gpu_methods" in parts:
            write(f"gpu_methods_{model}_b{cases[-1].batch}", gpu.methods(cases[-1], asked.rounds, device))
        large = Case(model, gpu.EVALUATED, asked.depth)
        if "gpu_evaluation" in parts:
            write(f"gpu_evaluation_{model}_b{large.batch}", gpu.evaluation(large, asked.rounds, device))
    if "gpu_forms" in parts:
        write("gpu_forms", gpu.forms(asked.rounds, device))
    if "gpu_long_run" in parts:
        write("gpu_long_run", gpu.long_run())


def write_result(out: Path, name: str, result: dict[str, Any]) -> None:
    """name.json in the folder, and what matters of it on the terminal."""
    path = out / f"{name}.json"
    files.write(path, (json.dumps({"machine": machine()} | result, indent=1) + "\n").encode(), once=False)
    print(path)
    for row, values in result["rows"].items():
        print(
            f"  {row:44s}",
            "  ".join(f"{key} {value}" for key, value in values.items() if SHOWN.search(key)),
        )


def bench(
    only: str = ",".join(EVERY), model: str = "vit_base_patch16_224,swin_base_patch4_window7_224", batch: str = "2,4",
    gpu_batch: str = ",".join(map(str, gpu.BATCHES)), rows: str = "", rounds: Count = 15,
    depth: Annotated[int | None, typer.Option(min=1, help="Blocks; default: all.")] = None, out: Path = RESULTS,
) -> None:  # fmt: skip
    """Measure steps, evaluation passes, forms of one layer, scaling, phases of whole runs, and a GPU where there is one.

    Several values are parted by commas, rows by semicolons: only=steps "rows=KARST, ours;full" model=vit_base_patch16_224
    """
    measure(Asked.of(only=only, model=model, batch=batch, gpu_batch=gpu_batch, rows=rows, rounds=rounds, depth=depth, out=out))


def main(words: Sequence[str]) -> int:
    """0 done, 2 bad input."""
    return call(bench, words, "python -m benchmarks")


def _counts(key: str, text: str) -> list[int]:
    numbers = _parts(text, ",")
    for number in numbers:
        if not number.isdigit() or int(number) < 1:
            raise UserError(f"{key}={number} is not a whole number of at least 1")
    return [int(number) for number in numbers]


def _parts(text: str, separator: str) -> list[str]:
    return [part.strip() for part in text.split(separator) if part.strip()]


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
