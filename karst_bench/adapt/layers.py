"""The modules that take a timm layer's place in the tree: the layer, plus what a method declared about it."""

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from karst_bench.adapt.linear_forms import is_narrow, linear_with_deltas
from karst_bench.adapt.timm_compat import FakeTensor, is_plain_layer_norm
from karst_bench.nn.affine import Affine, fold_after, fold_before
from karst_bench.nn.fused_linear import full_precision
from karst_bench.nn.noise import PartNoise
from karst_bench.nn.precision import in_own_precision, own_precision, same_precision
from karst_bench.nn.recompute import InputSource
from karst_bench.nn.weight_delta import FactoredDelta, WeightDelta

Rows = tuple[int, int] | None
LowRank = tuple[Tensor, Tensor]  # hidden (..., R), up (d_out, R)
Part = tuple[Tensor, tuple[int, int]]  # what is added to a range of the last axis
Merge = Callable[[nn.Module, Tensor], Tensor]  # (the branch, W0) -> dW


class AdaptedLayer(nn.Module):
    """One linear, convolution or norm with everything declared on it, always in this order:

    y = after( (W0 + sum dW) before(x) + b + sum db + sum branch(before(x)) ), or branch(the output so far)

    Shapes: as the base layer. Changes and branches may cover a range of output rows (q, k or v of a fused projection);
    every change sees the frozen W0; `before` holds affines and maps that fold themselves. `fold` gives the same map as one
    plain layer where every part allows it.
    """

    base: Any
    before: Any
    deltas: Any
    after: Any

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.before = nn.ModuleList()
        self.deltas = nn.ModuleList()
        self.branches = nn.ModuleList()
        self.after = nn.ModuleList()
        self.delta_rows: list[Rows] = []
        self.branch_rows: list[Rows] = []
        self.branch_reads: list[str] = []
        self.merges: list[Merge | None] = []
        self.noise: PartNoise | None = None  # on what is declared here, in training
        self.source: InputSource | None = None  # set where the input is computed again instead of kept
        self.recompute_weight = False  # instead of keeping it, with its changes, for backward

    @property
    def weight(self) -> Tensor:
        """A norm's or convolution's own, which timm asks for device, precision and shape. Raises: AttributeError on a linear
        layer, whose weight alone would not say what is added to it."""
        if isinstance(self.base, nn.Linear):
            raise AttributeError("an adapted linear layer has no weight of its own; call it")
        weight: Tensor = self.base.weight
        return weight

    def add_delta(self, update: WeightDelta, rows: Rows) -> None:
        """One more change of the weight, or of a range of its rows."""
        self.deltas.append(update)
        self.delta_rows.append(rows)

    def add_branch(self, fn: nn.Module, rows: Rows, merge: Merge | None, reads: str = "input") -> None:
        """One more branch; merge is None where it has no weight form."""
        self.branches.append(fn)
        self.branch_rows.append(rows)
        self.branch_reads.append(reads)
        self.merges.append(merge)

    def forward(self, x: Tensor) -> Tensor:
        y = self._adapted(x)
        return y if self.noise is None or not self.training else y + self.noise.added(y - self.base(x))

    def _adapted(self, x: Tensor) -> Tensor:
        for part in self.before:
            x = in_own_precision(part, x)
        recompute, matrix = None if self.source is None else self.source.take(x), None
        fold = self._folds(x)
        if len(self.deltas) or fold:
            with full_precision(x.device.type):
                factors, bias = self.factors(), self.bias()
            after = self.after if fold else ()
            y = linear_with_deltas(x, self.base, bias, factors, after, recompute, recompute_weight=self.recompute_weight)
        elif fold := self._folds_into_norm():
            y = self._folded_norm(x)
        else:
            matrix = self._matrix(x)
            y = self.base(x) if matrix is None else matrix.unflatten(0, x.shape[:-1])
        y = self._branched(x, y, matrix)
        axis = 1 if isinstance(self.base, nn.Conv2d) else -1
        for affine in () if fold else self.after:
            y = affine(y, axis)
        return y

    def _branched(self, x: Tensor, y: Tensor, matrix: Tensor | None) -> Tensor:
        """y with every branch added: those of low rank in one product, those side by side on ranges of rows in one sum.

        matrix: y without a further owner, which may be written to.
        """
        plain = y
        low: list[LowRank] = []
        parts: list[Part] = []
        for fn, rows, reads in zip(self.branches, self.branch_rows, self.branch_reads, strict=True):
            if reads != "input":
                y, low, parts = _add_low_rank(_add_parts(y, parts), low), [], []
            seen = x if reads == "input" else y if rows is None else y[..., rows[0] : rows[1]]
            factors = fn.low_rank(seen) if hasattr(fn, "low_rank") and same_precision(fn, seen) else None  # type: ignore[operator]
            if factors is not None:
                hidden, up = factors
                low.append((hidden, up if rows is None else F.pad(up, (0, 0, rows[0], y.shape[-1] - rows[1]))))
                continue
            own = rows or (0, y.shape[-1])
            if any(start < own[1] and own[0] < stop for _, (start, stop) in parts):
                y, parts = _add_parts(y, parts), []
            parts.append((in_own_precision(fn, seen), own))
        if matrix is not None and low and not parts and y is plain:
            hidden, up = (part.to(matrix.dtype) for part in _stacked(low))
            return matrix.addmm_(hidden.flatten(0, -2), up.T).view_as(y)
        return _add_low_rank(_add_parts(y, parts), low)

    def _matrix(self, x: Tensor) -> Tensor | None:
        """base(x) as a matrix where branches of low rank may be added to it in place, so that no output is copied."""
        if type(self.base) is not nn.Linear or not len(self.branches) or any(reads != "input" for reads in self.branch_reads):
            return None
        y: Tensor = self.base(x.flatten(0, -2))
        return y

    def _folds_into_norm(self) -> bool:
        plain = is_plain_layer_norm(self.base) and not is_narrow(self.base.weight)
        return bool(len(self.after)) and not len(self.branches) and plain

    def _folded_norm(self, x: Tensor) -> Tensor:
        """The norm with the affines in its own weight and bias: no pass over its output, nothing more kept of it."""
        weight, bias = self.base.weight, self.base.bias
        for affine in self.after:
            weight, bias = fold_after(weight, bias, affine)
        return F.layer_norm(x, self.base.normalized_shape, weight, bias, self.base.eps)

    def _folds(self, x: Tensor) -> bool:
        """Whether the affines go into the product: everywhere but with a branch after it, and where the host would wait for
        their guard's value (nn/fused_linear.py)."""
        if not len(self.after) or len(self.branches) or not isinstance(self.base, nn.Linear):
            return False
        if x.device.type in ("cpu", "meta") and not torch.compiler.is_compiling():
            return not isinstance(x, FakeTensor)
        return not is_narrow(self.base.weight)

    def factors(self) -> list[tuple[FactoredDelta, Rows]]:
        """Every change as factors, for whoever evaluates them without the dense weight."""
        return [(update.factors(_rows(self._weight(), rows)), rows)
                for update, rows in zip(self.deltas, self.delta_rows, strict=True)]  # fmt: skip

    def _weight(self) -> Tensor:
        """W0 in a precision that changes can be computed in."""
        weight: Tensor = self.base.weight
        return weight.float() if is_narrow(weight) else weight

    def bias(self) -> Tensor | None:
        """b + sum db: the bias with what the changes add to it, None where there is none."""
        weight, base = self._weight(), getattr(self.base, "bias", None)
        bias: Tensor | None = base
        for update, rows in zip(self.deltas, self.delta_rows, strict=True):
            gained = update.bias_delta(_rows(weight, rows), None if base is None else _rows(base, rows))
            if gained is not None:
                bias = _add_rows(weight.new_zeros(weight.shape[0]) if bias is None else bias, gained, rows)
        return bias

    def shifts(self) -> bool:
        """Whether something here adds to the bias, so that a layer without one could not take it."""
        if any(isinstance(part, Affine) and part.shift is not None for part in (*self.before, *self.after)):
            return True
        maps = [part for part in self.before if not isinstance(part, Affine)]
        weight, base = self.base.weight, getattr(self.base, "bias", None)
        return any(part.fold_into(weight[:1].to(own_precision(part, weight.dtype)), None)[1] is not None for part in maps) or any(
            update.bias_delta(_rows(weight, rows), None if base is None else _rows(base, rows)) is not None
            for update, rows in zip(self.deltas, self.delta_rows, strict=True)
        )

    def unmergeable(self) -> list[str]:
        """The parts that no plain layer can absorb, by class name."""
        return [type(fn).__name__ for fn, merge in zip(self.branches, self.merges, strict=True) if merge is None]

    @torch.no_grad()
    def fold(self) -> tuple[Tensor, Tensor | None]:
        """(weight, bias) of the one plain layer that computes the same map, in float64 until the last rounding."""
        dtype = self.base.weight.dtype
        double = copy.deepcopy(self).double()
        base = double.base
        weight, bias = base.weight, double.bias()
        for update, rows in zip(double.deltas, self.delta_rows, strict=True):
            weight = _add_rows(weight.T, update.delta(_rows(base.weight, rows)).T, rows).T
        for fn, merge, rows in zip(double.branches, self.merges, self.branch_rows, strict=True):
            if merge is None:
                raise ValueError(f"{type(fn).__name__} has no weight form")
            weight = _add_rows(weight.T, merge(fn, _rows(base.weight, rows)).T, rows).T
        for part in reversed(double.before):
            folds = isinstance(part, Affine)
            weight, bias = fold_before(weight, bias, part) if folds else part.fold_into(weight, bias)
        for affine in double.after:
            weight, bias = fold_after(weight, bias, affine)
        return weight.to(dtype), None if bias is None else bias.to(dtype)


def _rows(weight: Tensor, rows: Rows) -> Tensor:
    return weight if rows is None else weight[rows[0] : rows[1]]


def _add_rows(y: Tensor, update: Tensor, rows: Rows) -> Tensor:
    """y with the update added to its last axis, or to the range of it that the rows name."""
    if rows is None:
        return y + update
    start, stop = rows
    return torch.cat([y[..., :start], y[..., start:stop] + update, y[..., stop:]], dim=-1)


def _add_parts(y: Tensor, parts: list[Part]) -> Tensor:
    """y with every part added to its own rows of the last axis, by one sum."""
    if not parts:
        return y
    row: list[Tensor] = []
    end = 0
    for part, (start, stop) in sorted(parts, key=lambda part: part[1][0]):
        row += [part.new_zeros(*part.shape[:-1], start - end), part] if start > end else [part]
        end = stop
    if end < y.shape[-1]:
        row.append(row[-1].new_zeros(*y.shape[:-1], y.shape[-1] - end))
    return y + (row[0] if len(row) == 1 else torch.cat(row, dim=-1))


def _add_low_rank(y: Tensor, parts: list[LowRank]) -> Tensor:
    """y + sum hidden up^T as one product."""
    if not parts:
        return y
    hidden, up = _stacked(parts)
    return torch.addmm(y.flatten(0, -2), hidden.flatten(0, -2), up.T).view_as(y)


def _stacked(parts: list[LowRank]) -> LowRank:
    """All of them as one: (hidden (..., sum R), up (d_out, sum R))."""
    return parts[0] if len(parts) == 1 else (torch.cat([hidden for hidden, _ in parts], -1), torch.cat([up for _, up in parts], -1))
