"""How steps are run: one by one, as one captured graph, or compiled as well. It has no say in what a run is."""

from collections.abc import Sequence

import torch

from karst_bench.errors import UserError
from karst_bench.methods.base import Method

# One H200, ViT-B/16, batch 64, torch 2.11: with an empty compiler's cache a run of KARST took 103 s more, and a compiled step
# 7.9 ms less than a captured one (benchmarks/results: gpu_long_run, gpu_compiled and gpu_slow_methods).
COMPILE_FROM_STEPS = 13_000


def choose_speed(wanted: str, device: torch.device, methods: Sequence[Method], *, steps: int, recompute: bool) -> str:
    """eager, graph or compile. auto: eager on a CPU; on CUDA graph, and compile where so many steps pay for it.

    steps: of all runs that one compilation serves. A method that makes Python choices at every step (graphable = False) is always
    run eagerly. On CUDA a compiled step is captured too. Raises: UserError for graph without CUDA.
    """
    if wanted == "graph" and device.type != "cuda":
        raise UserError("speed=graph needs a CUDA device and there is none here; use speed=auto, eager or compile")
    if not all(method.graphable for method in methods):
        return "eager"
    if wanted != "auto":
        return wanted
    if device.type != "cuda":
        return "eager"
    return "compile" if steps >= COMPILE_FROM_STEPS and not recompute else "graph"
