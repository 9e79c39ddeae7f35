"""make bench: writes benchmarks/results/<name>.json and a plot.

python -m benchmarks                               every part: training steps of ViT-B/16 and Swin-B, evaluation passes,
                                                   forms of one layer, scaling, phases of whole runs, steps on a GPU
python -m benchmarks only=steps model=vit_base_patch16_224 batch=2 rounds=15
python -m benchmarks only=phases model=             the small run alone
Set OMP_NUM_THREADS=1 where other programs share the machine: the CPU clock then measures this program alone.
"""

import json
import platform
import re
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks import evaluation, forms, gpu, page, phases, plot, scaling, steps
from benchmarks.rows import Case

RESULTS = Path(__file__).parent / "results"
PARTS = ("steps", "evaluation", "forms", "scaling", "phases", "gpu")
SHOWN = re.compile(r"ratio|bytes|chosen|^(setup|train|evaluate|wall|steps|test)_s$")
DEFAULTS = {
    "only": ",".join(PARTS), "model": "vit_base_patch16_224,swin_base_patch4_window7_224", "batch": "2,4",
    "rounds": "15", "depth": "", "rows": "",
}  # fmt: skip


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


def options(arguments: list[str]) -> dict[str, str]:
    chosen = dict(DEFAULTS)
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key not in DEFAULTS:
            raise SystemExit(f"{argument}: unknown option; use {', '.join(f'{k}={v}' for k, v in DEFAULTS.items())}")
        chosen[key] = value
    return chosen


def main() -> None:
    chosen = options(sys.argv[1:])
    rounds, parts = int(chosen["rounds"]), chosen["only"].split(",")
    depth = int(chosen["depth"]) if chosen["depth"] else None
    cases = [
        Case(model, int(batch), depth) for model in chosen["model"].split(",") for batch in chosen["batch"].split(",")
    ]
    for case in cases:
        name = f"{case.model}_b{case.batch}" + (f"_depth{case.depth}" if case.depth else "")
        if "steps" in parts:
            wanted = [row.strip() for row in chosen["rows"].split(";")] if chosen["rows"] else None
            write(f"steps_{name}", steps.measured(case, rounds, wanted))
        if "evaluation" in parts:
            write(f"evaluation_{name}", evaluation.measured(case, rounds))
    if "forms" in parts:
        write("forms", forms.measured(rounds))
    if "scaling" in parts:
        write("scaling", scaling.measured(rounds))
    if "phases" in parts:
        write("phases", phases.measured(large="vit_base_patch16_224" in chosen["model"]))
    if "gpu" in parts:
        write_gpu(chosen["model"].split(","), rounds, depth)
    plot.draw(RESULTS)
    page.write(RESULTS)


def write_gpu(models: list[str], rounds: int, depth: int | None) -> None:
    if not torch.cuda.is_available():
        print("gpu: not measured, torch sees no CUDA device here")
        return
    for model in models:
        for batch in gpu.BATCHES:
            write(f"gpu_{model}_b{batch}", gpu.measured(Case(model, batch, depth), rounds, torch.device("cuda")))
    write("gpu_long_run", gpu.long_run())


def write(name: str, result: dict[str, Any]) -> None:
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": machine()} | result, indent=1) + "\n")
    print(f"{path.relative_to(RESULTS.parent.parent)}")
    for row, values in result["rows"].items():
        print(
            f"  {row:44s}",
            "  ".join(f"{key} {value}" for key, value in values.items() if SHOWN.search(key)),
        )


if __name__ == "__main__":
    main()
