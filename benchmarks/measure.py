"""Clocks and scales: everything compared is measured in turns within one process."""

import ctypes
import gc
import re
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

Clock = dict[str, list[float]]
Keep = Callable[[dict[str, Any]], object]  # is told the result so far after every row, so that a program cut off loses none


def forget(result: dict[str, Any]) -> None:
    """Where the whole result is waited for."""


def interleaved(
    steps: Mapping[str, Callable[[], object]], rounds: int, finish: Callable[[], object] = lambda: None, warm: int = 1
) -> dict[str, Clock]:
    """Wall and thread-CPU seconds of every step, one of each in every round, after `warm` unmeasured rounds.

    The CPU clock leaves out what other processes took; it counts this thread only, so torch must run on one thread.
    finish: waits for the device after every step, so that the wall clock counts its work.
    """
    clocks: dict[str, Clock] = {name: {"wall_s": [], "cpu_s": []} for name in steps}
    for _ in range(warm):
        for step in steps.values():
            step()
    finish()
    for _ in range(rounds):
        for name, step in steps.items():
            wall, cpu = time.perf_counter(), time.thread_time()
            step()
            finish()
            clocks[name]["cpu_s"].append(time.thread_time() - cpu)
            clocks[name]["wall_s"].append(time.perf_counter() - wall)
    return clocks


def summary(clocks: Mapping[str, Clock], base: str) -> dict[str, dict[str, float]]:
    """Medians and minima in seconds and as ratios to the base row, on both clocks.

    *_ratio_median is the median over rounds of the ratio within a round: it cancels slow drifts of the machine.
    """
    table: dict[str, dict[str, float]] = {}
    for name, clock in clocks.items():
        row: dict[str, float] = {}
        for kind, seconds in clock.items():
            reference = clocks[base][kind]
            short = kind.removesuffix("_s")
            row[f"{short}_median_s"], row[f"{short}_min_s"] = statistics.median(seconds), min(seconds)
            row[f"{short}_ratio_median"] = statistics.median(s / b for s, b in zip(seconds, reference, strict=True))
            row[f"{short}_ratio_min"] = min(seconds) / min(reference)
        table[name] = {key: round(value, 4) for key, value in row.items()}
    return table


def trainer(net: nn.Module, *, autocast: bool, captured: bool = False) -> Callable[[Tensor, Tensor], None]:
    """step(x, y): forward, backward and a fused AdamW step. captured: with the learning rate in a tensor, to be recorded."""
    net.train()
    trained = [p for p in net.parameters() if p.requires_grad]
    lr = torch.tensor(1e-5, device=trained[0].device) if captured else 1e-5
    optimizer = torch.optim.AdamW(trained, lr=lr, fused=True, capturable=captured)

    def step(x: Tensor, y: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=autocast):
            logits = net(x)
        F.cross_entropy(logits.float(), y).backward()
        optimizer.step()

    return step


def training_step(net: nn.Module, x: Tensor, y: Tensor, *, autocast: bool) -> Callable[[], object]:
    """The step of `trainer` on one batch again and again."""
    return partial(trainer(net, autocast=autocast), x, y)


def step_peak_bytes(step: Callable[[], object], device: torch.device) -> int | None:
    """Most memory that a step holds beyond what stands before it; None where the system does not tell.

    CUDA: bytes of tensors. Linux: growth of the resident set, after the allocator gave back what was free.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        return int(torch.cuda.max_memory_allocated(device) - before)
    if not sys.platform.startswith("linux"):
        return None
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from here
    before = _resident("VmRSS")
    step()
    return _resident("VmHWM") - before


def _resident(key: str) -> int:
    found = re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


def saved_bytes(net: nn.Module, x: Tensor, *, autocast: bool) -> dict[str, int]:
    """Bytes that the forward pass keeps for backward, each storage once, parameters left out.

    weights: storages of weight shape (2-D, no batch in them: merged or cast weights); activations: the rest.
    """
    own = {t.untyped_storage().data_ptr() for t in [*net.parameters(), *net.buffers()]}
    shapes = {tuple(p.shape) for p in net.parameters() if p.ndim == 2}
    seen: dict[int, tuple[str, int]] = {}
    kept: list[Any] = []

    def keep(tensor: Tensor) -> None:
        """Nothing is handed to the graph, which never runs backward."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kind = "weights" if {tuple(tensor.shape), tuple(tensor.shape[::-1])} & shapes else "activations"
            seen.setdefault(storage.data_ptr(), (kind, storage.nbytes()))
            kept.append(tensor)  # a freed storage's address would be given out again

    net.train()
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda nothing: nothing)
    try:
        with hooks, torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=autocast):
            net(x)
    finally:
        kept.clear()  # the graph's nodes hold `keep`: with a node's own output in it the graph would live for ever
    total = {"weights": 0, "activations": 0}
    for kind, size in seen.values():
        total[kind] += size
    return {"activations_bytes": total["activations"], "with_weights_bytes": sum(total.values())}


class _Count(TorchDispatchMode):
    """Counts the tensor operations that run under it."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def launches(step: Callable[[], object]) -> int:
    """Tensor operations of one step, views left out; on a GPU each is at least one launch."""
    with _Count() as counter:
        step()
    return counter.count
