"""What a step on a GPU keeps in memory, counted on tensors that have its device and no values: any model, any batch, no GPU.

The bytes are autograd's own: storages saved for backward, each once, bf16 copies of weights counted. One H100 kept the very
same for ViT-B/16 at batch 64, to a few bytes (floor 3.01 GB, LoRA 3.03 GB). What single operations need for a moment is not in it.
"""

import gc
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.fake_gpu import cuda_without_a_driver, kept_bytes
from benchmarks.measure import Keep, forget, step_peak_bytes, training_step
from benchmarks.rows import Case, floor, full, karst, lora_all
from karst_bench.adapt.speed.activation_recompute import recompute


class WithoutValues(Case):
    """A model whose weights take no memory."""

    def net(self) -> nn.Module:
        with torch.device("meta"):
            return super().net()


CASES = [
    Case("vit_base_patch16_224", 64), Case("swin_base_patch4_window7_224", 64), Case("vit_large_patch16_224", 256),
    Case("vit_huge_patch14_224", 64),
]  # fmt: skip
MOMENTS = 2  # that AdamW keeps of each trained scalar, beside its gradient


def _recomputed(net: nn.Module, *, weights: bool) -> nn.Module:
    recompute(net, weights=weights)
    return net


ROWS: dict[str, Callable[[Case], nn.Module]] = {
    "floor": floor,
    "KARST, as a run on a GPU": lambda case: _recomputed(karst(case), weights=False),
    "KARST, recompute=true": lambda case: _recomputed(karst(case), weights=True),
    "KARST, all tokens": lambda case: _recomputed(karst(case, short=False), weights=False),
    "KARST, all tokens, recompute=true": lambda case: _recomputed(karst(case, short=False), weights=True),
    "KARST, nothing made again": karst,
    "LoRA on four linears r 8, as a run on a GPU": lambda case: _recomputed(lora_all(case), weights=False),
    "full": full,
}  # fmt: skip


def measured(cases: list[Case]) -> dict[str, Any] | None:
    """Bytes kept for backward and in all, by case and row; None where this torch makes no such tensors."""
    if not cuda_without_a_driver():
        return None
    rows = {f"{case.model}, batch {case.batch}: {row}": values for case in cases for row, values in case_rows(case).items()}
    return {"what": "memory of a training step in bf16 on a GPU, counted without one", "rows": rows}


def case_rows(case: Case) -> dict[str, dict[str, float]]:
    """Of one model at one batch size; ratios to its floor."""
    case = WithoutValues(case.model, case.batch, case.depth)
    size: Any = case.net().patch_embed.img_size  # type: ignore[union-attr]
    images, table = torch.zeros(case.batch, 3, *size), dict[str, dict[str, float]]()
    for name, build in ROWS.items():
        net = build(case)
        trained = sum(p.numel() * p.element_size() for p in net.parameters() if p.requires_grad)
        counted = kept_bytes(net, images)
        kept = counted["kept_bytes"]
        table[name] = {"kept_bytes": kept, "total_bytes": kept + counted["parameter_bytes"] + (1 + MOMENTS) * trained}
        table[name]["kept_ratio"] = round(kept / table["floor"]["kept_bytes"], 3)
    return table


class OnDevice(Case):
    """A model whose weights are drawn where it trains: a processor takes half a minute for ViT-H's."""

    def net(self) -> nn.Module:
        with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
            return super().net()


def on_device(cases: list[Case], device: torch.device, keep: Keep = forget) -> dict[str, Any]:
    """The same rows where there is a GPU: its own peak of a step, after one that warmed up; out of memory is a result."""
    rows: dict[str, Any] = {}
    result = {"what": "most memory of a training step in bf16 beside weights and optimiser", "rows": rows}
    for case in (OnDevice(case.model, case.batch, case.depth) for case in cases):
        size: Any = case.net().patch_embed.img_size  # type: ignore[union-attr]
        x, y = torch.randn(case.batch, 3, *size, device=device), torch.zeros(case.batch, dtype=torch.long, device=device)
        for name, build in ROWS.items():
            rows[f"{case.model}, batch {case.batch}: {name}"] = _peak(partial(build, case), x, y)
            gc.collect()
            keep(result)
    return result


def _peak(build: Callable[[], nn.Module], x: Tensor, y: Tensor) -> dict[str, Any]:
    """One model, which is gone when the next is built."""
    try:
        step = training_step(build().to(x.device), x, y, autocast=True)
        step()
        return {"peak_bytes": step_peak_bytes(step, x.device)}
    except torch.OutOfMemoryError:
        return {"failed": "out of memory"}
