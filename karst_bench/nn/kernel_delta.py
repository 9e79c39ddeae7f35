"""Changes of full rank from few numbers: a kernel of two sets of points, sparse, and computed again in backward."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from karst_bench.nn.fused_linear import autocast_dtype, full_precision
from karst_bench.nn.order_statistic import nth_smallest
from karst_bench.nn.weight_delta import WeightDelta

SCALE = 0.1  # of the kernel


class KernelDelta(WeightDelta):
    """dW = g * D, g = |D| among the `kept` largest |D|, else 0, a constant in backward; K_oi = 0.1 (|q_o - p_i| - |q'_o - p'_i|)

    D = K, or with `mixed` D = K + alpha softmax_o(K / gamma) + beta              [SNELL, arXiv 2411.01124; SNELLA]
    So the value is the signed square D |D|, its gradient with respect to D is g. kept=None: dW = D, all of it.
    Shapes: P (2, d_in, r / 2), the p_i and p'_i; Q (2, d_out, r / 2); alpha, gamma, beta scalars. Trainable: r (d_in +
    d_out), 3 more where mixed. Init: Kaiming-uniform(sqrt 5) over a tensor's last two axes, alpha = gamma = 1, beta = 0.
    """

    kept: Tensor | None
    adapter_buffers: tuple[str, ...]

    def __init__(self, d_out: int, d_in: int, *, r: int, kept: int | None, mixed: bool = False) -> None:
        super().__init__()
        self.P, self.Q = (nn.Parameter(torch.empty(2, d, r // 2)) for d in (d_in, d_out))
        for points in (self.P, self.Q):
            nn.init.kaiming_uniform_(points, a=math.sqrt(5))
        self.mixed = mixed
        if mixed:
            self.alpha, self.gamma = nn.Parameter(torch.ones(())), nn.Parameter(torch.ones(()))
            self.beta = nn.Parameter(torch.zeros(()))
        self.register_buffer("kept", None if kept is None else torch.tensor(kept))
        self.adapter_buffers = () if kept is None else ("kept",)

    @property
    def size(self) -> int:
        """Entries of dW."""
        return self.Q.shape[1] * self.P.shape[1]

    def delta(self, W0: Tensor) -> Tensor:
        return self.above(None)[0]

    def above(self, threshold: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """(dW, what |D| must exceed), the second found where it is not given; None where all of D counts.

        A GPU computes the transpose: the softmax down the columns of D would leave most of it idle.
        """
        transposed = self.Q.device.type == "cuda"
        D = self._kernel(transposed=transposed)
        if self.kept is not None:
            size = D.detach().abs()
            threshold = self._threshold(size) if threshold is None else threshold
            D = D * (size * (size > threshold))
        return D.mT if transposed else D, threshold

    def _kernel(self, *, transposed: bool) -> Tensor:
        """D, or its transpose (d_in, d_out)."""
        if transposed and not torch.compiler.is_compiling():  # torch 2.11 gives a function in a compiled checkpoint no gradient
            D: Tensor = PointKernel.apply(self.P, self.Q)
        else:
            distance = torch.cdist(self.P, self.Q) if transposed else torch.cdist(self.Q, self.P)
            D = SCALE * (distance[0] - distance[1])
        if self.mixed:
            D = D + self.alpha * (D / self.gamma).softmax(1 if transposed else 0) + self.beta
        return D

    def _threshold(self, size: Tensor) -> Tensor:
        """The largest of what is not kept, 0 where all is."""
        assert self.kept is not None
        return nth_smallest(size, self.size - self.kept)

    def extra_repr(self) -> str:
        return f"r={2 * self.P.shape[-1]}, mixed={self.mixed}"


class PointKernel(torch.autograd.Function):
    """K^T (d_in, d_out) of P (2, d_in, k) and Q (2, d_out, k), by |p|^2 + |q|^2 - 2 p q, in half of autograd's operations."""

    @staticmethod
    def forward(ctx: Any, P: Tensor, Q: Tensor) -> Tensor:
        squares = P.square().sum(-1, keepdim=True) + Q.square().sum(-1).unsqueeze(1)
        distance = torch.baddbmm(squares, P, Q.mT, alpha=-2).clamp_min_(0).sqrt_()
        ctx.save_for_backward(P, Q, distance)
        return (distance[0] - distance[1]).mul_(SCALE)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dK: Tensor) -> tuple[Tensor, Tensor]:
        """With w = 0.1 dK / |p - q|, 0 where p = q: dp = sum_q w (p - q), and the like; the second distances count negative."""
        P, Q, distance = ctx.saved_tensors
        w = (dK * SCALE / distance).masked_fill_(distance == 0, 0.0)
        w[1].neg_()
        dP = torch.baddbmm(w.sum(2, keepdim=True) * P, w, Q, alpha=-1)
        dQ = torch.baddbmm(w.sum(1).unsqueeze(2) * Q, w.mT, P, alpha=-1)
        return dP, dQ


class RecomputedLinear(nn.Module):
    """x -> dW drop(x), where backward computes dW again instead of keeping it. Shapes: x (..., d_in) -> (..., d_out)."""

    def __init__(self, update: KernelDelta, *, dropout: float) -> None:
        super().__init__()
        self.update = update
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(x)
        if not torch.is_grad_enabled():
            return self._product(x, None)
        if x.device.type == "cuda" and not torch.compiler.is_compiling():
            y: Tensor = RecomputedProduct.apply(x, self.update, *self.update.parameters())
            return y
        # the first pass leaves the threshold to the second; a compiler sees no list that changes
        found: list[Tensor | None] | None = None if torch.compiler.is_compiling() else []
        y = checkpoint(self._product, x, found, use_reentrant=False, preserve_rng_state=False)
        return y

    def delta(self, W0: Tensor) -> Tensor:
        """dW (d_out, d_in)."""
        return self.update.delta(W0)

    def _product(self, x: Tensor, found: list[Tensor | None] | None) -> Tensor:
        with full_precision(x.device.type):
            dW, threshold = self.update.above(found[0] if found else None)
        if found is not None:
            found[:] = [threshold]
        return F.linear(x, dW.to(x.dtype))


class RecomputedProduct(torch.autograd.Function):
    """x dW^T, as `RecomputedLinear`; of what ran, backward repeats dW alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, update: KernelDelta, *points: Tensor) -> Tensor:
        ctx.update, ctx.x_dtype = update, x.dtype
        x = x.to(autocast_dtype(x.device.type) or x.dtype)
        with full_precision(x.device.type):
            dW, threshold = update.above(None)
            ctx.save_for_backward(x, threshold, *points)
            return F.linear(x, dW.to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """dx = dy dW, and what G = dy^T x gives each point through dW, which is computed again."""
        x, threshold, *points = ctx.saved_tensors
        with full_precision(dy.device.type):
            with torch.enable_grad():
                dW, _ = ctx.update.above(threshold)
            dx = (dy @ dW.detach().to(dy.dtype)).to(ctx.x_dtype) if ctx.needs_input_grad[0] else None
            wanted = [p for p, needed in zip(points, ctx.needs_input_grad[2:], strict=True) if needed]
            G = dy.flatten(0, -2).T @ x.flatten(0, -2)
            grads = iter(torch.autograd.grad(dW, wanted, G.to(dW.dtype)) if wanted else ())
        return dx, None, *(next(grads) if needed else None for needed in ctx.needs_input_grad[2:])
