"""A changed linear layer without the cost of its change: its own forward and backward, exact like autograd's."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from karst_bench.nn.delta_ops import add_to_output, add_to_weight, cast, dense_gradients, rank_gradients, tensors_of
from karst_bench.nn.recompute import Recompute
from karst_bench.nn.weight_delta import FactoredDelta

Rows = tuple[int, int] | None
SMALL_GAIN, LARGE_OFFSET = 0.1, 2.0  # beyond these, dividing the output's gain out again loses digits


@dataclass(frozen=True)
class LinearForm:
    """How one call is computed; every combination gives the same numbers up to rounding.

    merge_forward: build the changed weight, or add each change to the output. dense_backward: factor gradients through
    the (d_out, d_in) gradient, or by the rank path. dtype: of the products (bf16 under autocast); the weight is always
    built in the precision it is stored in. recompute: makes x again in backward instead of keeping it; recompute_weight:
    also the changed weight (wide_linear alone keeps it).
    """

    kinds: tuple[type[Any], ...]
    rows: tuple[Rows, ...]
    merge_forward: bool
    dense_backward: bool
    dtype: torch.dtype
    recompute: Recompute | None = None
    recompute_weight: bool = False

    def deltas(self, tensors: tuple[Tensor, ...]) -> list[FactoredDelta]:
        """The changes again, from their tensors in order."""
        deltas, at = [], 0
        for kind in self.kinds:
            count = len(kind.__match_args__)
            deltas.append(kind(*tensors[at : at + count]))
            at += count
        return deltas


def autocast_dtype(device: str) -> torch.dtype | None:
    """The precision of products under the autocast in force, None without one (as always on the meta device)."""
    if device == "meta" or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device)


def full_precision(device: str) -> AbstractContextManager[object]:
    """Autocast off: an update computed in bf16 would carry bf16's rounding into the weight."""
    return nullcontext() if autocast_dtype(device) is None else torch.autocast(device, enabled=False)


def fused_linear(
    plan: LinearForm, x: Tensor, weight: Tensor, bias: Tensor | None, gain: Tensor | None, offset: Tensor | None,
    deltas: list[FactoredDelta],
) -> Tensor:  # fmt: skip
    """y = gain * ((W0 + sum dW) x + b) + offset.

    Shapes: x (..., d_in), weight (d_out, d_in), bias, gain and offset (d_out,) or None; plan.rows says which output
    rows each change covers (None: all).
    """
    tensors = [tensor for update in deltas for tensor in tensors_of(update)]
    y: Tensor = _FusedLinear.apply(plan, x, weight, bias, gain, offset, *tensors)
    return y


class _FusedLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, plan: LinearForm, x: Tensor, weight: Tensor, bias: Tensor | None, gain: Tensor | None,
        offset: Tensor | None, *tensors: Tensor,
    ) -> Tensor:  # fmt: skip
        deltas = plan.deltas(tensors)
        with full_precision(x.device.type):
            x_cast = x.to(plan.dtype).reshape(-1, x.shape[-1])
            if plan.merge_forward:
                y, merged = _merged(plan, deltas, x_cast, weight, bias, gain, offset)
            else:
                y, merged = _factored(plan, deltas, x_cast, weight, bias, gain, offset), None
            y = y.view(*x.shape[:-1], -1)
        needs = ctx.needs_input_grad
        if any(needs):
            gain_grad = gain is not None and needs[4]
            ctx.plan, ctx.x_dtype = plan, x.dtype
            ctx.unsafe = gain is not None and needs[4] and _unsafe(gain, offset)
            keep_x = needs[2] or any(needs[6:]) or ctx.unsafe
            source = () if not keep_x else (x_cast,) if plan.recompute is None else plan.recompute.sources
            ctx.sources = len(source)
            # the dense path serves narrow layers, whose merged weight is small; else dx comes from W0 and the factors
            kept = merged if plan.dense_backward else None
            ctx.save_for_backward(kept, y if gain_grad else None, weight, bias, gain, offset, *source, *tensors)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        merged, y, weight, bias, gain, offset, *rest = ctx.saved_tensors
        plan, needs = ctx.plan, ctx.needs_input_grad
        deltas = plan.deltas(tuple(rest[ctx.sources :]))
        with full_precision(dy.device.type):
            flat = dy.reshape(-1, dy.shape[-1]).contiguous()
            x = _flat_x(ctx, rest)
            dbias, dgain, doffset = _vector_gradients(ctx, flat, x, y, weight, bias, gain, offset, deltas)
            dz = flat if gain is None else (flat * gain).to(flat.dtype)
            dx = None
            if needs[1]:
                dx = flat @ merged if merged is not None else dz @ weight.to(plan.dtype)
            dweight, grads = _matrix_gradients(plan, needs, deltas, x, dz, None if merged is not None else dx)
        if dx is not None:
            dx = dx.to(ctx.x_dtype).view(*dy.shape[:-1], -1)
        return None, dx, dweight, dbias, dgain, doffset, *grads


def _rows(tensor: Tensor, rows: Rows) -> Tensor:
    return tensor if rows is None else tensor[rows[0] : rows[1]]


def _columns(tensor: Tensor, rows: Rows) -> Tensor:
    return tensor if rows is None else tensor[:, rows[0] : rows[1]]


def _merged_weight(plan: LinearForm, deltas: list[FactoredDelta], weight: Tensor) -> Tensor:
    weight = weight.clone(memory_format=torch.contiguous_format)
    for update, rows in zip(deltas, plan.rows, strict=True):
        add_to_weight(cast(update, weight.dtype), _rows(weight, rows))
    return weight


def _merged(
    plan: LinearForm, deltas: list[FactoredDelta], x: Tensor, weight: Tensor, bias: Tensor | None, gain: Tensor | None,
    offset: Tensor | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(y, gain * (W0 + sum dW)), everything folded into one product; the sum is formed before any rounding to bf16."""
    merged = _merged_weight(plan, deltas, weight)
    if gain is not None:
        merged.mul_(gain[:, None])
        bias = None if bias is None else bias * gain
    if offset is not None:
        bias = offset if bias is None else bias + offset
    merged = merged.to(plan.dtype)
    return F.linear(x, merged, None if bias is None else bias.to(plan.dtype)), merged


def _factored(
    plan: LinearForm, deltas: list[FactoredDelta], x: Tensor, weight: Tensor, bias: Tensor | None, gain: Tensor | None,
    offset: Tensor | None,
) -> Tensor:  # fmt: skip
    """y by the frozen product with each change added to it: less to move than a merged weight while tokens are few."""
    y = F.linear(x, weight.to(plan.dtype), None if bias is None else bias.to(plan.dtype))
    for update, rows in zip(deltas, plan.rows, strict=True):
        add_to_output(cast(update, plan.dtype), x, _columns(y, rows))
    if gain is not None:
        y.mul_(gain)
    return y if offset is None else y.add_(offset)


def _unsafe(gain: Tensor, offset: Tensor | None) -> bool:
    """Whether some channel's pre-gain output cannot be recovered from the output without losing digits; no for tensors without
    values."""
    if gain.is_meta:
        return False
    size = gain.abs()
    limit = size if offset is None else torch.minimum(size, size - offset.abs() / LARGE_OFFSET + SMALL_GAIN)
    return bool(limit.min() < SMALL_GAIN)


def _flat_x(ctx: Any, saved: list[Tensor]) -> Tensor | None:
    if not ctx.sources:
        return None
    recompute = ctx.plan.recompute
    x = saved[0] if recompute is None else recompute.redo(*saved[: ctx.sources]).to(ctx.plan.dtype)
    return x.reshape(-1, x.shape[-1])


def _vector_gradients(
    ctx: Any, dy: Tensor, x: Any, y: Any, weight: Tensor, bias: Any, gain: Any, offset: Any, deltas: list[FactoredDelta]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
    """(dbias, dgain, doffset), reduced in fp32 or better; x, y, bias, gain and offset are tensors or None.

    With z the output before the affine, dgain = sum_t dy z = (sum_t dy y - offset * doffset) / gain: z is not kept.
    Where that division is unsafe, z is computed again.
    """
    wide = torch.promote_types(dy.dtype, torch.float32)
    needs_bias, needs_gain, needs_offset = ctx.needs_input_grad[3:6]
    total: Any = None
    if needs_bias or needs_offset or (needs_gain and offset is not None):
        total = dy.sum(0, dtype=wide)
    dgain = None
    if y is not None:
        y = y.view_as(dy)
    if needs_gain and ctx.unsafe:
        bare = _merged_weight(ctx.plan, deltas, weight).to(ctx.plan.dtype)
        z = F.linear(x, bare, None if bias is None else bias.to(ctx.plan.dtype))
        dgain = (dy.to(wide) * z).sum(0).to(gain.dtype)
    elif needs_gain:
        dgain = (dy.to(wide) * y).sum(0)
        dgain = ((dgain if offset is None else dgain - offset * total) / gain).to(gain.dtype)
    dbias = None
    if needs_bias:
        dbias = (total if gain is None else total * gain).to(bias.dtype)
    return dbias, dgain, total.to(offset.dtype) if needs_offset else None


def _matrix_gradients(
    plan: LinearForm, needs: tuple[bool, ...], deltas: list[FactoredDelta], x: Any, dz: Tensor, dx: Tensor | None
) -> tuple[Tensor | None, list[Tensor | None]]:
    """(dweight, the gradients of all factors); adds every change's part to dx in place where dx is given."""
    gradient = dz.T @ x if needs[2] or (plan.dense_backward and any(needs[6:])) else None
    grads: list[Tensor | None] = []
    for update, rows in zip(deltas, plan.rows, strict=True):
        wanted = needs[6 + len(grads) : 6 + len(grads) + len(tensors_of(update))]
        own: tuple[Tensor | None, ...] = (None,) * len(wanted)
        change_cast = cast(update, plan.dtype)
        if any(wanted) and gradient is not None:
            own = dense_gradients(change_cast, _rows(gradient, rows))
            if dx is not None:
                _add_input_gradient(change_cast, dz, rows, dx)
        elif any(wanted):
            own = rank_gradients(change_cast, x, _columns(dz, rows), dx)
        elif dx is not None:
            _add_input_gradient(change_cast, dz, rows, dx)
        pairs = zip(own, tensors_of(update), strict=True)
        grads += [None if grad is None else grad.to(tensor.dtype) for grad, tensor in pairs]
    return gradient if needs[2] else None, grads


def _add_input_gradient(update: FactoredDelta, dz: Tensor, rows: Rows, dx: Tensor) -> None:
    """dx += dz dW where no factor's gradient is wanted on the way."""
    dx.addmm_(_columns(dz, rows), update.materialise())
