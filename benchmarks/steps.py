"""Training steps of one backbone: every row against the floor."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import interleaved, launches, saved_bytes, step_peak_bytes, summary, training_step
from benchmarks.rows import CLASSES, ROWS, Case

FAST_BF16 = ("avx512_bf16", "amx")


def measured(case: Case, rounds: int, wanted: list[str] | None = None) -> dict[str, Any]:
    """Time and memory of each row in fp32 and in bf16; the time in bf16 only where the CPU multiplies bf16, else
    the memory."""
    names = [name for name in ROWS if wanted is None or name in wanted or name == "floor"]
    nets = {name: ROWS[name](case) for name in names}
    size = nets["floor"].patch_embed.img_size  # type: ignore[union-attr]
    torch.manual_seed(1)
    x, y = torch.randn(case.batch, 3, *size), torch.randint(CLASSES, (case.batch,))  # type: ignore[misc]
    table = _rows(nets, x, y, rounds, autocast=False)
    bf16 = _rows(nets, x, y, rounds, autocast=True) if _has_bf16() else memory(nets, x, autocast=True)
    return {
        "what": "training step (forward, backward, fused AdamW), drop-path 0", "model": case.model, "depth": case.depth,
        "batch": case.batch, "rounds": rounds, "precision": "fp32", "rows": table, "bf16": bf16,
    }  # fmt: skip


def _rows(
    nets: dict[str, torch.nn.Module], x: torch.Tensor, y: torch.Tensor, rounds: int, *, autocast: bool
) -> dict[str, dict[str, float]]:
    kept = memory(nets, x, autocast=autocast)
    steps = {name: training_step(net, x, y, autocast=autocast) for name, net in nets.items()}
    table = summary(interleaved(steps, rounds), "floor")
    return {name: row | counted(steps[name], x.device) | kept[name] for name, row in table.items()}


def counted(step: Callable[[], object], device: torch.device) -> dict[str, int]:
    """Operations of one step and, where the system tells, the most memory it takes."""
    peak = step_peak_bytes(step, device)
    return {"launches": launches(step)} | ({} if peak is None else {"peak_bytes": peak})


def memory(nets: dict[str, torch.nn.Module], x: torch.Tensor, *, autocast: bool) -> dict[str, dict[str, float]]:
    """Bytes that a step keeps for backward, and as ratios to the floor's."""
    kept = {name: saved_bytes(net, x, autocast=autocast) for name, net in nets.items()}
    return {
        name: own | {f"{key.removesuffix('_bytes')}_ratio": round(size / kept["floor"][key], 3) for key, size in own.items()}
        for name, own in kept.items()
    }


def _has_bf16() -> bool:
    path = Path("/proc/cpuinfo")
    text = path.read_text() if path.exists() else ""
    return any(flag in text for flag in FAST_BF16)
