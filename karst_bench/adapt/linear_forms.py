"""Which form a changed linear layer is computed in: by device, site and batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from karst_bench.nn.affine import Affine
from karst_bench.nn.delta_ops import height
from karst_bench.nn.fused_linear import LinearForm, Rows, autocast_dtype, fused_linear
from karst_bench.nn.recompute import Recompute
from karst_bench.nn.weight_delta import DenseDelta, FactoredDelta, KronDelta, LowRankDelta
from karst_bench.nn.wide_linear import wide_linear


class Form(NamedTuple):
    """merge: build the changed weight; dense: factor gradients through the weight's; wide: by nn/wide_linear.py."""

    merge: bool
    dense: bool
    wide: bool = False


@dataclass(frozen=True)
class Costs:
    """What a device's arithmetic costs, in units of one multiply-add of a wide product.

    wide: whether plain products of the whole inner size R' = m N r are all that is used; skinny: one multiply-add of a
    product with inner or outer size N r (wide: R'), its reshuffles included; pass_: reading and writing one element of a weight.
    """

    wide: bool
    skinny: float
    pass_: float


COSTS = {
    # measured on AVX2 cores with MKL (make bench, rows `forms`)
    "cpu": Costs(wide=False, skinny=3.0, pass_=24.0),
    # one H200, ViT-B/16, batch 64, compiled and captured: 18.2 ms a step by U V, 19.1 with dense gradients, which a factor
    # of 1 reproduces; layer by layer, captured, it is not measured (make bench only=gpu_forms will)
    "cuda": Costs(wide=True, skinny=1.0, pass_=0.0),
}


def costs_of(device: str) -> Costs:
    """The row of this device; a device without one is taken for a GPU, and so is whatever is traced for a compiler,
    which wants neither a value on the host nor a tensor changed in place."""
    if torch.compiler.is_compiling():
        return COSTS["cuda"]
    return COSTS["cpu" if device == "meta" else device if device in COSTS else "cuda"]


def linear_with_deltas(
    x: Tensor, base: nn.Linear, bias: Tensor | None, deltas: Sequence[tuple[FactoredDelta, Rows]],
    affines: Sequence[Affine], recompute: Recompute | None = None, *, recompute_weight: bool = False,
    costs: Costs | None = None,
) -> Tensor:  # fmt: skip
    """The affines after (W0 + sum dW) x + bias; with all of them folded into one product where that is cheaper.

    Shapes: x (..., d_in) -> (..., d_out); each delta covers its rows of the output. recompute: how to make x again.
    costs: of another device than x lies on.
    """
    factors = [update for update, _ in deltas]
    rows = tuple(rows for _, rows in deltas)
    device, weight = x.device.type, base.weight
    dtype = autocast_dtype(device) or x.dtype
    shapes = tuple(_shape(update) for update in factors)
    costs = costs or costs_of(device)
    tokens, (d_out, d_in) = x.numel() // x.shape[-1], weight.shape
    form = Form(False, False) if is_narrow(weight) else form_of(costs, tokens, d_out, d_in, shapes)
    kinds = tuple(type(update) for update in factors)
    plan = LinearForm(kinds, rows, form.merge, form.dense, dtype, recompute, recompute_weight)
    gain, offset = composed_affine(affines, weight.shape[0])
    compute = wide_linear if form.wide else fused_linear
    return compute(plan, x, weight, bias, gain, offset, factors)


def is_narrow(weight: Tensor) -> bool:
    """Whether an update added to such a weight would be rounded away."""
    return torch.finfo(weight.dtype).bits < 32


def composed_affine(affines: Sequence[Affine], channels: int) -> tuple[Tensor | None, Tensor | None]:
    """(gain, offset) of several affines one after the other, each (channels,) or None."""
    gain: Tensor | None = None
    offset: Tensor | None = None
    for affine in affines:
        g, s = affine.gain(channels), affine.offset(channels)
        if g is not None:
            gain = g if gain is None else gain * g
            offset = None if offset is None else offset * g
        if s is not None:
            offset = s if offset is None else offset + s
    return gain, offset


def form_of(costs: Costs, tokens: int, d_out: int, d_in: int, shapes: tuple[tuple[int, int, int], ...]) -> Form:
    """The form for changes of (rows, inner size R, m), counted in multiply-adds.

    Adding to the output: R T (d_in + rows + m^2) a change, against R d_in rows and a pass over the weight for merging.
    Rank path: R T (3 d_in + 2 rows + 3 m^2), against T d_in d_out once and 2 R d_in rows for the dense gradient.
    Wide: R' T (2 d_in + 2 d_out) with R' = m R of a Kron, all changes together, against the dense gradient.
    An inner size of 0 stands for a change given as dW itself.
    """
    if costs.wide:
        return _wide_form(costs, d_out, d_in, shapes)
    if not shapes:
        return Form(False, False)
    skinny = costs.skinny
    added = sum(skinny * R * tokens * (d_in + rows + m * m) if R else tokens * d_in * rows for rows, R, m in shapes)
    merged = costs.pass_ * d_in * d_out + sum(R * d_in * rows for rows, R, m in shapes)
    by_rank = sum(
        skinny * R * tokens * (3 * d_in + 2 * rows + 3 * m * m) if R else 2 * tokens * d_in * rows
        for rows, R, m in shapes
    )
    dense = tokens * d_in * d_out + sum(2 * R * d_in * rows for rows, R, m in shapes)
    if dense < by_rank:
        return Form(True, True)  # the merged weight is there for the input gradient too
    return Form(merged < added, False)


def _wide_form(costs: Costs, d_out: int, d_in: int, shapes: tuple[tuple[int, int, int], ...]) -> Form:
    inner = sum(R * max(m, 1) for _, R, m in shapes)
    dense = not all(R for _, R, _ in shapes) or d_in * d_out < costs.skinny * inner * 2 * (d_in + d_out)
    return Form(True, bool(shapes) and dense, wide=True)


def _shape(update: FactoredDelta) -> tuple[int, int, int]:
    if isinstance(update, KronDelta):
        N, m, _ = update.C.shape
        return height(update), N * update.A.shape[-1], m
    if isinstance(update, LowRankDelta):
        return height(update), update.down.shape[0], 0
    assert isinstance(update, DenseDelta)
    return height(update), 0, 0
