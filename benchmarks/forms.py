"""One KARST linear in each of its forms, over widths, tokens, N and r: where karst_bench.adapt.linear_forms's limits come from."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.measure import interleaved, summary
from karst_bench.adapt.linear_forms import COSTS, Form, form_of
from karst_bench.nn.fused_linear import LinearForm, fused_linear
from karst_bench.nn.kronecker import KroneckerSum
from karst_bench.nn.wide_linear import wide_linear

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
FORMS = {
    "merged, dense gradient": Form(True, True), "merged, rank path": Form(True, False), "added, rank path": Form(False, False),
    "U V": Form(True, False, wide=True), "U V, dense gradient": Form(True, True, wide=True),
}  # fmt: skip
SIZES = [(1, 8), (2, 8), (4, 8), (8, 8), (2, 1)]


def measured(rounds: int) -> dict[str, Any]:
    """Forward and backward of one layer, ratios to the frozen layer's; `chosen` is the form the product takes."""
    rows: dict[str, dict[str, Any]] = {}
    for d_in, d_out, chunks in SHAPES:
        for tokens in [1088] if d_in < 192 else TOKENS:
            rows[f"{d_in}->{d_out} T {tokens}"] = layer(d_in, d_out, chunks, tokens, 2, 8, rounds)
    for N, r in SIZES:
        rows[f"768->768 T 394 N {N} r {r}"] = layer(768, 768, 1, 394, N, r, rounds)
    return {"what": "one linear layer, forward and backward, fp32", "rounds": rounds, "rows": rows}


def layer(
    d_in: int, d_out: int, chunks: int, tokens: int, N: int, r: int, rounds: int, device: torch.device | None = None,
    finish: Callable[[], object] = lambda: None,
    recorded: Callable[[Callable[[], object]], Callable[[], object]] = lambda work: work,
) -> dict[str, Any]:  # fmt: skip
    """The forms of one layer; on a GPU in bf16, by the wall clock. recorded: makes of the work what does it again."""
    torch.manual_seed(0)
    at: dict[str, Any] = {"device": device or torch.device("cpu")}
    gpu = at["device"].type != "cpu"
    dtype = torch.bfloat16 if gpu else torch.float32
    update = KroneckerSum(d_out, d_in, N=N, m=8, r=r, sigma=1.0, init="gaussian", chunks=chunks).to(**at)
    x = torch.randn(tokens, d_in, dtype=dtype, requires_grad=True, **at)
    dy, weight, bias = (
        torch.randn(tokens, d_out, dtype=dtype, **at),
        torch.randn(d_out, d_in, **at),
        torch.randn(d_out, **at),
    )
    wanted = [x, *update.parameters()]

    def in_form(form: Form) -> Callable[[], object]:
        compute = wide_linear if form.wide else fused_linear

        def step() -> None:
            factors = update.factors(weight)
            plan = LinearForm((type(factors),), (None,), form.merge, form.dense, x.dtype)
            torch.autograd.grad(compute(plan, x, weight, bias, None, None, [factors]), wanted, dy)

        return step

    fixed, fixed_bias = weight.to(dtype), bias.to(dtype)
    steps = {"frozen": lambda: torch.autograd.grad(F.linear(x, fixed, fixed_bias), [x], dy)}
    steps |= {name: in_form(form) for name, form in FORMS.items()}
    steps = {name: recorded(step) for name, step in steps.items()}
    clock = "wall" if gpu else "cpu"
    form = form_of(COSTS["cuda" if gpu else "cpu"], tokens, d_out, d_in, ((d_out, N * r, 8),))
    table = summary(interleaved(steps, rounds, finish), "frozen")
    chosen = next(name for name, known in FORMS.items() if known == form)
    ratios = {
        f"{name}: {clock}_ratio_median": row[f"{clock}_ratio_median"] for name, row in table.items() if name != "frozen"
    }
    return {"chosen": chosen} | ratios
