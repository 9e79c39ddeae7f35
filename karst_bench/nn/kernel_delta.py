"""Changes of full rank from few numbers: a kernel of two sets of points, sparse, and computed again in backward."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from karst_bench.nn.fused_linear import full_precision
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
        distance = torch.cdist(self.Q, self.P)  # (2, d_out, d_in)
        D = SCALE * (distance[0] - distance[1])
        if self.mixed:
            D = D + self.alpha * (D / self.gamma).softmax(0) + self.beta
        if self.kept is None:
            return D
        size = D.detach().abs()
        return D * torch.where(size > self._threshold(size), size, 0.0)

    def _threshold(self, size: Tensor) -> Tensor:
        """The largest of what is not kept, -1 where all is."""
        assert self.kept is not None
        rank = self.size - self.kept - 1
        value = size.flatten().sort().values.index_select(0, rank.clamp_min(0).view(1))
        return torch.where(rank >= 0, value, -1.0)

    def extra_repr(self) -> str:
        return f"r={2 * self.P.shape[-1]}, mixed={self.mixed}"


class RecomputedLinear(nn.Module):
    """x -> dW drop(x), where backward computes dW again instead of keeping it. Shapes: x (..., d_in) -> (..., d_out)."""

    def __init__(self, update: WeightDelta, *, dropout: float) -> None:
        super().__init__()
        self.update = update
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(x)
        if not torch.is_grad_enabled():
            return self._product(x)
        y: Tensor = checkpoint(self._product, x, use_reentrant=False, preserve_rng_state=False)
        return y

    def delta(self, W0: Tensor) -> Tensor:
        """dW (d_out, d_in)."""
        return self.update.delta(W0)

    def _product(self, x: Tensor) -> Tensor:
        with full_precision(x.device.type):
            dW = self.update.delta(x)
        return F.linear(x, dW.to(x.dtype))
