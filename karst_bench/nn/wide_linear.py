"""A changed linear layer in plain products of the changes' whole inner size: few operations, none skinny, none in place.

nn/fused_linear.py counts multiply-adds, which is right on a CPU. A GPU's time goes into launches and into what products
too small for it leave idle, so here every change of a layer is one pair U (d_out, R), V (R, d_in), dW = U V, and nothing
asks the host for a value: the step can be captured or compiled.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from karst_bench.nn.delta_ops import added, cast, dense_gradients, tensors_of, wide_factors, wide_gradients
from karst_bench.nn.fused_linear import LinearForm, Rows, full_precision
from karst_bench.nn.weight_delta import DenseDelta, FactoredDelta


def wide_linear(
    plan: LinearForm, x: Tensor, weight: Tensor, bias: Tensor | None, gain: Tensor | None, offset: Tensor | None,
    deltas: list[FactoredDelta],
) -> Tensor:  # fmt: skip
    """y = gain * ((W0 + sum dW) x + b) + offset, the weight merged in the precision it is stored in and rounded once.

    With s = x V^T and v = dz U: dU = dz^T s, dV = v^T x, dx = dz W. Where dz^T x = G is there, as a trained gain, a trained
    weight or a change given as dW itself needs it, the factors' gradients come from it (plan.dense_backward: always).
    dgain = rowsum(W' * G) + b sum_t dz, W' = W0 + sum dW: z is neither kept nor passed over again. Shapes: as `fused_linear`.
    """
    tensors = [tensor for update in deltas for tensor in tensors_of(update)]
    y: Tensor = _WideLinear.apply(plan, x, weight, bias, gain, offset, *tensors)
    return y


class _WideLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, plan: LinearForm, x: Tensor, weight: Tensor, bias: Tensor | None, gain: Tensor | None,
        offset: Tensor | None, *tensors: Tensor,
    ) -> Tensor:  # fmt: skip
        needs = ctx.needs_input_grad
        with full_precision(x.device.type):
            flat = x.to(plan.dtype).reshape(-1, x.shape[-1])
            merged = _merged(plan, plan.deltas(tensors), weight)
            folded = _folded(plan, merged, gain)
            y = _product(flat, folded, _bias(bias, gain, offset)).view(*x.shape[:-1], -1)
        if any(needs):
            ctx.plan, ctx.x_dtype = plan, x.dtype
            source: tuple[Tensor, ...] = ()
            if needs[2] or needs[4] or any(needs[6:]):
                source = (flat,) if plan.recompute is None else plan.recompute.sources
            ctx.sources = len(source)
            kept = None if plan.recompute_weight else merged if needs[4] else folded
            ctx.save_for_backward(kept, weight, bias, gain, *source, *tensors)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        kept, weight, bias, gain, *rest = ctx.saved_tensors
        plan, needs = ctx.plan, ctx.needs_input_grad
        deltas = plan.deltas(tuple(rest[ctx.sources :]))
        with full_precision(dy.device.type):
            flat = dy.reshape(-1, dy.shape[-1])
            x = _input(ctx, rest)
            merged = _merged(plan, deltas, weight) if kept is None else kept
            back = _folded(plan, merged, gain) if kept is None or needs[4] else kept
            wide = torch.promote_types(flat.dtype, torch.float32)
            total = flat.sum(0, dtype=wide) if any(needs[3:6]) else None
            dx = (flat @ back).to(ctx.x_dtype).view(*dy.shape[:-1], -1) if needs[1] else None
            dense = needs[2] or needs[4] or (plan.dense_backward and any(needs[6:]))
            G = flat.T @ x if dense else None
            dgain = _gain_gradient(merged, bias, G, total) if needs[4] else None
            dbias = total if gain is None or total is None else total * gain
            dweight = None if G is None else _scaled(G, gain)
            grads = _factor_gradients(plan, needs[6:], deltas, x, flat, gain, dweight)
        dweight, doffset = dweight if needs[2] else None, total if needs[5] else None
        return None, dx, dweight, dbias if needs[3] else None, dgain, doffset, *grads


def _folded(plan: LinearForm, merged: Tensor, gain: Tensor | None) -> Tensor:
    """gain * W' in the precision of the products: what x and dy are multiplied by."""
    return (merged if gain is None else merged * gain[:, None]).to(plan.dtype)


def _gain_gradient(merged: Tensor, bias: Tensor | None, G: Tensor | None, total: Tensor | None) -> Tensor:
    """sum_t dy z, (d_out,), with z = W' x + b never there: G = dy^T x, total = sum_t dy."""
    assert G is not None and total is not None
    dgain = (merged * G).sum(1)
    return dgain if bias is None else torch.addcmul(dgain, bias, total)


def _merged(plan: LinearForm, deltas: list[FactoredDelta], weight: Tensor) -> Tensor:
    """W0 + sum dW in the stored precision."""
    if any(plan.rows) and DenseDelta not in plan.kinds:
        _, U, V = _stacked(plan, deltas, weight.shape[0], weight.dtype)
        return torch.addmm(weight, U, V)
    for update, rows in zip(deltas, plan.rows, strict=True):
        weight = (
            added(update, weight) if rows is None else weight + _padded(update.materialise(), rows, weight.shape[0])
        )
    return weight


def _stacked(
    plan: LinearForm, deltas: list[FactoredDelta], height: int, dtype: torch.dtype
) -> tuple[list[int], Tensor, Tensor]:
    """(inner size of each change, U (d_out, R), V (R, d_in)) of all changes of the layer."""
    pairs = [wide_factors(update, dtype) for update in deltas]
    ups = [U if rows is None else _padded(U, rows, height) for (U, _), rows in zip(pairs, plan.rows, strict=True)]
    downs = [V for _, V in pairs]
    sizes = [V.shape[0] for V in downs]
    return (sizes, ups[0], downs[0]) if len(pairs) == 1 else (sizes, torch.cat(ups, 1), torch.cat(downs))


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(x, weight, None if bias is None else bias.to(weight.dtype))


def _bias(bias: Tensor | None, gain: Tensor | None, offset: Tensor | None) -> Tensor | None:
    if bias is not None and gain is not None:
        bias = bias * gain
    return offset if bias is None else bias if offset is None else bias + offset


def _input(ctx: Any, saved: list[Tensor]) -> Any:
    """x (T, d_in) where backward has a use for it."""
    if not ctx.sources:
        return None
    recompute = ctx.plan.recompute
    x = saved[0] if recompute is None else recompute.redo(*saved[: ctx.sources]).to(ctx.plan.dtype)
    return x.reshape(-1, x.shape[-1])


def _factor_gradients(
    plan: LinearForm, needs: tuple[bool, ...], deltas: list[FactoredDelta], x: Any, dy: Tensor, gain: Tensor | None,
    dweight: Tensor | None,
) -> list[Tensor | None]:  # fmt: skip
    """The gradients of all factors, from the weight's where it is given. The gain scales rows of small matrices instead of a
    column of dy each."""
    grads: list[Tensor] = []
    if any(needs) and dweight is not None:
        for update, rows in zip(deltas, plan.rows, strict=True):
            part = dweight if rows is None else dweight[rows[0] : rows[1]]
            grads += dense_gradients(cast(update, part.dtype), part)
    elif any(needs):
        grads = _wide(plan, deltas, x, dy, gain)
    tensors = [tensor for update in deltas for tensor in tensors_of(update)]
    pairs = zip(grads, tensors, strict=True) if grads else ((None, tensor) for tensor in tensors)
    return [
        None if not needed or grad is None else grad.to(tensor.dtype) for needed, (grad, tensor) in zip(needs, pairs, strict=True)
    ]


def _wide(plan: LinearForm, deltas: list[FactoredDelta], x: Tensor, dy: Tensor, gain: Tensor | None) -> list[Tensor]:
    """The gradients of all factors from four products, whatever the number of changes."""
    stored = tensors_of(deltas[0])[0].dtype
    sizes, U, V = _stacked(plan, deltas, dy.shape[1], plan.dtype if gain is None else stored)
    s, v = x @ V.to(plan.dtype).T, dy @ _scaled(U, gain).to(plan.dtype)
    dU, dV = _scaled(dy.T @ s, gain), v.T @ x
    grads: list[Tensor] = []
    first = 0
    for update, size, rows in zip(deltas, sizes, plan.rows, strict=True):
        own = slice(first, first + size)
        grads += wide_gradients(update, dU[slice(*(rows or (None,))), own], dV[own])
        first += size
    return grads


def _scaled(rows_first: Tensor, gain: Tensor | None) -> Tensor:
    return rows_first if gain is None else rows_first * gain[:, None]


def _padded(part: Tensor, rows: Rows, height: int) -> Tensor:
    """Rows of zeros above and below."""
    assert rows is not None
    return F.pad(part, (0, 0, rows[0], height - rows[1]))
