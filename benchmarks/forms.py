"""One KARST linear in each of its forms, over widths, tokens, N and r: where karst_bench.adapt.linear_forms's limits come from."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.measure import interleaved, summary
from karst_bench.adapt.linear_forms import forms
from karst_bench.nn.fused_linear import LinearForm, fused_linear
from karst_bench.nn.kronecker import KroneckerSum

SHAPES = [
    (96, 288, 3),
    (96, 96, 1),
    (96, 384, 1),
    (192, 768, 1),
    (768, 2304, 3),
    (768, 768, 1),
    (768, 3072, 1),
    (3072, 768, 1),
]
TOKENS = [197, 394, 788]
SIZES = [(1, 8), (2, 8), (4, 8), (8, 8), (2, 1)]


def measured(rounds: int) -> dict[str, Any]:
    """Forward and backward of one layer, ratios to the frozen layer's; `chosen` is the form the product takes."""
    rows: dict[str, dict[str, Any]] = {}
    for d_in, d_out, chunks in SHAPES:
        for tokens in [1088] if d_in < 192 else TOKENS:
            rows[f"{d_in}->{d_out} T {tokens}"] = _layer(d_in, d_out, chunks, tokens, 2, 8, rounds)
    for N, r in SIZES:
        rows[f"768->768 T 394 N {N} r {r}"] = _layer(768, 768, 1, 394, N, r, rounds)
    return {"what": "one linear layer, forward and backward, fp32", "rounds": rounds, "rows": rows}


def _layer(d_in: int, d_out: int, chunks: int, tokens: int, N: int, r: int, rounds: int) -> dict[str, Any]:
    torch.manual_seed(0)
    update = KroneckerSum(d_out, d_in, N=N, m=8, r=r, sigma=1.0, init="gaussian", chunks=chunks)
    x, dy = torch.randn(tokens, d_in, requires_grad=True), torch.randn(tokens, d_out)
    weight, bias = torch.randn(d_out, d_in), torch.randn(d_out)
    wanted = [x, *update.parameters()]

    def in_form(merge: bool, dense: bool) -> Callable[[], object]:
        def step() -> None:
            factors = update.factors(weight)
            plan = LinearForm((type(factors),), (None,), merge, dense, x.dtype)
            torch.autograd.grad(fused_linear(plan, x, weight, bias, None, None, [factors]), wanted, dy)

        return step

    steps = {
        "frozen": lambda: torch.autograd.grad(F.linear(x, weight, bias), [x], dy),
        "merged, dense gradient": in_form(True, True), "merged, rank path": in_form(True, False),
        "added, rank path": in_form(False, False),
    }  # fmt: skip
    merge, dense = forms(tokens, d_out, d_in, ((d_out, N * r, 8),))
    table = summary(interleaved(steps, rounds), "frozen")
    ratios = {f"{name}: cpu_ratio_median": row["cpu_ratio_median"] for name, row in table.items() if name != "frozen"}
    return {
        "chosen": "merged, dense gradient" if dense else "merged, rank path" if merge else "added, rank path"
    } | ratios
