"""The parts that `python -m benchmarks` measures, and the files they are written to."""

import gc
import json
import platform
import re
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import evaluation, forms, gpu, memory, page, phases, plot, scaling, steps
from benchmarks.asked import ON_GPU, Asked
from benchmarks.measure import Keep
from benchmarks.rows import Case
from karst_bench import files
from karst_bench.errors import UserError, briefly

SHOWN = re.compile(
    r"ratio|failed|per_hour|speedup|as_alone|last_loss|mode|share|bytes|chosen|^(setup|train|evaluate|wall|steps|test)_s$"
)


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
    """Raises: UserError naming the parts that failed, once all others are measured."""
    if not torch.cuda.is_available():
        print("gpu: not measured, torch sees no CUDA device here")
        return
    failed = []
    for name, measured in gpu_parts(asked, torch.device("cuda")).items():
        try:
            write(name, measured())
        except Exception as error:  # what was measured before it and what comes after it counts
            traceback.print_exc()
            failed.append(f"{name} ({briefly(error)})")
        gc.collect()
    if failed:
        raise UserError(f"not measured: {', '.join(failed)}")


def gpu_parts(asked: Asked, device: torch.device) -> dict[str, Callable[[], dict[str, Any]]]:
    """What each file of a GPU's parts is measured by, in order."""
    parts = ON_GPU if "gpu" in asked.parts else asked.parts
    found: dict[str, Callable[[Keep], dict[str, Any]]] = {}
    rounds = asked.rounds
    for model in asked.models:
        cases = [Case(model, batch, asked.depth) for batch in asked.gpu_batches]
        for case in cases if "gpu_steps" in parts else []:
            found[f"gpu_{model}_b{case.batch}"] = partial(_steps, case, rounds, device, asked.rows)
        if "gpu_methods" in parts:
            found[f"gpu_methods_{model}_b{cases[-1].batch}"] = partial(_methods, cases[-1], rounds, device)
        large = Case(model, gpu.EVALUATED, asked.depth)
        if "gpu_evaluation" in parts:
            found[f"gpu_evaluation_{model}_b{large.batch}"] = partial(_evaluation, large, rounds, device)
    if "gpu_forms" in parts:
        found["gpu_forms"] = lambda keep: gpu.forms(rounds, device, keep=keep)
    if "gpu_long_run" in parts:
        found["gpu_long_run"] = lambda keep: gpu.long_run(keep=keep)
    return {name: partial(_kept, asked.out / f"{name}_unfinished.json", measured) for name, measured in found.items()}


def _steps(case: Case, rounds: int, device: torch.device, rows: list[str] | None, keep: Keep) -> dict[str, Any]:
    return gpu.measured(case, rounds, device, only=rows, keep=keep)


def _methods(case: Case, rounds: int, device: torch.device, keep: Keep) -> dict[str, Any]:
    return gpu.methods(case, rounds, device, keep=keep)


def _evaluation(case: Case, rounds: int, device: torch.device, keep: Keep) -> dict[str, Any]:
    return gpu.evaluation(case, rounds, device)  # a single measurement


def _kept(unfinished: Path, measured: Callable[[Keep], dict[str, Any]]) -> dict[str, Any]:
    """The result, whose rows so far lie in a file until they are whole."""
    result = measured(lambda rows: saved(unfinished, {"machine": machine(), "unfinished": True} | rows))
    unfinished.unlink(missing_ok=True)
    return result


def write_result(out: Path, name: str, result: dict[str, Any]) -> None:
    """name.json in the folder, and what matters of it on the terminal."""
    path = out / f"{name}.json"
    saved(path, {"machine": machine()} | result)
    print(path)
    for row, values in result["rows"].items():
        print(
            f"  {row:44s}",
            "  ".join(f"{key} {value}" for key, value in values.items() if SHOWN.search(key)),
        )


def saved(path: Path, result: dict[str, Any]) -> None:
    """The result as a file."""
    files.write(path, (json.dumps(result, indent=1) + "\n").encode(), once=False)
