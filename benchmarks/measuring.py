"""The parts that `python -m benchmarks` measures, and the files they are written to."""

import json
import platform
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import evaluation, forms, gpu, memory, page, phases, plot, scaling, steps
from benchmarks.asked import ON_GPU, Asked
from benchmarks.rows import Case
from karst_bench import files

SHOWN = re.compile(r"ratio|failed|runs_per_hour|speedup|last_loss|share|bytes|chosen|^(setup|train|evaluate|wall|steps|test)_s$")


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
    cases = [Case(model, batch, asked.depth) for model in asked.models for batch in asked.batches]
    for case in cases:
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
        counted = memory.measured(memory.CASES if asked.depth is None else cases)
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
