"""Which form a changed linear layer is computed in: the one with the fewest operations, by site and batch."""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn

from karst_bench.nn.affine import Affine
from karst_bench.nn.delta_ops import height
from karst_bench.nn.fused_linear import LinearForm, Rows, autocast_dtype, fused_linear
from karst_bench.nn.recompute import Recompute
from karst_bench.nn.weight_delta import DenseDelta, FactoredDelta, KronDelta, LowRankDelta

# Measured on AVX2 cores with MKL (make bench, rows `forms`). In units of one multiply-add of a wide product:
SKINNY = 3.0  # one multiply-add of a product with inner or outer size N r, its reshuffles included
PASS = 24.0  # reading and writing one element of a weight


def linear_with_deltas(
    x: Tensor, base: nn.Linear, bias: Tensor | None, deltas: Sequence[tuple[FactoredDelta, Rows]],
    affines: Sequence[Affine], recompute: Recompute | None = None,
) -> Tensor:  # fmt: skip
    """The affines after (W0 + sum dW) x + bias; with all of them folded into one product where that is cheaper.

    Shapes: x (..., d_in) -> (..., d_out); each delta covers its rows of the output. recompute: how to make x again.
    """
    factors = [update for update, _ in deltas]
    rows = tuple(rows for _, rows in deltas)
    device, weight = x.device.type, base.weight
    dtype = autocast_dtype(device) or x.dtype
    shapes = tuple(_shape(update) for update in factors)
    narrow = torch.finfo(weight.dtype).bits < 32  # an update added to such a weight would be rounded away
    merge, dense = (False, False) if narrow else forms(x.numel() // x.shape[-1], *weight.shape, shapes)
    plan = LinearForm(tuple(type(update) for update in factors), rows, merge, dense, dtype, recompute)
    gain, offset = composed_affine(affines, weight.shape[0])
    return fused_linear(plan, x, weight, bias, gain, offset, factors)


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


@lru_cache(maxsize=4096)
def forms(tokens: int, d_out: int, d_in: int, shapes: tuple[tuple[int, int, int], ...]) -> tuple[bool, bool]:
    """(merge_forward, dense_backward) for changes of (rows, inner size, m), counted in multiply-adds.

    Adding to the output: R T (d_in + rows + m^2) a change, against R d_in rows and a pass over the weight for merging.
    Rank path: R T (3 d_in + 2 rows + 3 m^2), against T d_in d_out once and 2 R d_in rows for the dense gradient.
    An inner size of 0 stands for a change given as dW itself.
    """
    if not shapes:
        return False, False
    added = sum(SKINNY * R * tokens * (d_in + rows + m * m) if R else tokens * d_in * rows for rows, R, m in shapes)
    merged = PASS * d_in * d_out + sum(R * d_in * rows for rows, R, m in shapes)
    by_rank = sum(
        SKINNY * R * tokens * (3 * d_in + 2 * rows + 3 * m * m) if R else 2 * tokens * d_in * rows
        for rows, R, m in shapes
    )
    dense = tokens * d_in * d_out + sum(2 * R * d_in * rows for rows, R, m in shapes)
    if dense < by_rank:
        return True, True  # the merged weight is there for the input gradient too
    return merged < added, False


def _shape(update: FactoredDelta) -> tuple[int, int, int]:
    if isinstance(update, KronDelta):
        N, m, _ = update.C.shape
        return height(update), N * update.A.shape[-1], m
    if isinstance(update, LowRankDelta):
        return height(update), update.down.shape[0], 0
    assert isinstance(update, DenseDelta)
    return height(update), 0, 0
