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

    With s = x V^T and v = dz U: dU = dz^T s, dV = v^T x, dx = dz W. plan.dense_backward takes the factors' gradients from
    dz^T x instead, which a change given as dW itself needs. Shapes: as `fused_linear`.
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
            back = (merged if gain is None else merged * gain[:, None]).to(plan.dtype)  # dy -> dx
            if gain is None or not needs[4]:  # z is not asked for: everything folds into one product
                z, y = None, _product(flat, back, _bias(bias, gain, offset))
            else:
                z = _product(flat, merged.to(plan.dtype), bias)
                y = (z * gain if offset is None else torch.addcmul(offset, z, gain)).to(plan.dtype)
            y = y.view(*x.shape[:-1], -1)
        if any(needs):
            ctx.plan, ctx.x_dtype = plan, x.dtype
            keep_x = needs[2] or any(needs[6:]) or (z is not None and plan.recompute_output)
            source = () if not keep_x else (flat,) if plan.recompute is None else plan.recompute.sources
            ctx.sources = len(source)
            kept = (None, weight, bias) if plan.recompute_output else (z, None, None)
            ctx.save_for_backward(back, gain, *kept, *source, *tensors)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        back, gain, z, weight, bias, *rest = ctx.saved_tensors
        plan, needs = ctx.plan, ctx.needs_input_grad
        deltas = plan.deltas(tuple(rest[ctx.sources :]))
        with full_precision(dy.device.type):
            flat = dy.reshape(-1, dy.shape[-1])
            x = _input(ctx, rest)
            if needs[4] and z is None:
                z = _product(x, _merged(plan, deltas, weight).to(plan.dtype), bias)
            wide = torch.promote_types(flat.dtype, torch.float32)
            total = flat.sum(0, dtype=wide) if needs[3] or needs[5] else None
            dgain = (flat.to(wide) * z).sum(0) if needs[4] else None
            dbias = total if gain is None or total is None else total * gain
            dx = (flat @ back).to(ctx.x_dtype).view(*dy.shape[:-1], -1) if needs[1] else None
            dweight, grads = _matrix_gradients(plan, needs, deltas, x, flat, gain)
        return None, dx, dweight, dbias if needs[3] else None, dgain, total if needs[5] else None, *grads


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


def _matrix_gradients(
    plan: LinearForm, needs: tuple[bool, ...], deltas: list[FactoredDelta], x: Any, dy: Tensor, gain: Tensor | None
) -> tuple[Tensor | None, list[Tensor | None]]:
    """(dweight, the gradients of all factors). The gain scales rows of small matrices instead of a column of dy each."""
    grads: list[Tensor | None] = []
    dweight = None
    if needs[2] or (plan.dense_backward and any(needs[6:])):
        dweight = _scaled(dy.T @ x, gain)
    if any(needs[6:]) and plan.dense_backward:
        for update, rows in zip(deltas, plan.rows, strict=True):
            assert dweight is not None
            part = dweight if rows is None else dweight[rows[0] : rows[1]]
            grads += dense_gradients(cast(update, part.dtype), part)
    elif any(needs[6:]):
        grads += _wide(plan, deltas, x, dy, gain)
    tensors = [tensor for update in deltas for tensor in tensors_of(update)]
    grads = [
        None if not needed or grad is None else grad.to(tensor.dtype)
        for needed, grad, tensor in zip(needs[6:], grads or [None] * len(tensors), tensors, strict=True)
    ]
    return dweight if needs[2] else None, grads


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
