"""Low-rank changes whose factors are stored in one bit a weight."""

import math

import torch
from torch import Tensor, nn

from karst_bench.nn.weight_delta import LowRankDelta, WeightDelta

LEVEL = 0.6745  # the quartile of a normal distribution: the two levels of its 1-bit quantiser


def one_bit(w: Tensor) -> Tensor:
    """mean + 0.6745 std sign(w - mean), with the gradient of the identity            [Bi-LoRA, arXiv 2307.16867, Eq. 8]

    mean and std over the whole matrix, constants in backward. Shapes: as w.
    """
    fixed = w.detach()
    mean, std = fixed.mean(), fixed.std()
    level = torch.where(fixed >= mean, LEVEL, -LEVEL).to(w.dtype)
    return w + (level * std + mean - fixed)


class BinaryLowRank(WeightDelta):
    """dW = s * S b(U) b(D), b = `one_bit`, S puts the rows of U where `rows` says     [Bi-LoRA, arXiv 2307.16867]

    Shapes: U (len(rows), r), D (r, d_in), dW (d_out, d_in), rows not named are 0. Trainable: r (len(rows) + d_in) latent
    weights. Init: U trunc-normal 1e-3 (it cannot be zero in one bit), D Kaiming-uniform(sqrt 5).
    """

    rows: Tensor

    def __init__(self, d_out: int, d_in: int, *, r: int, s: float, rows: Tensor) -> None:
        super().__init__()
        self.d_out, self.s = d_out, s
        self.register_buffer("rows", rows, persistent=False)
        self.U = nn.Parameter(torch.empty(len(rows), r))
        self.D = nn.Parameter(torch.empty(r, d_in))
        nn.init.trunc_normal_(self.U, std=1e-3, a=-2e-3, b=2e-3)
        nn.init.kaiming_uniform_(self.D, a=math.sqrt(5))

    def delta(self, W0: Tensor) -> Tensor:
        up = self.U.new_zeros(self.d_out, self.U.shape[1]).index_copy(0, self.rows, one_bit(self.U))
        return self.s * up @ one_bit(self.D)

    def factors(self, W0: Tensor) -> LowRankDelta:
        up = self.U.new_zeros(self.d_out, self.U.shape[1]).index_copy(0, self.rows, one_bit(self.U))
        return LowRankDelta(up=up, down=self.s * one_bit(self.D))

    def extra_repr(self) -> str:
        return f"r={self.D.shape[0]}, s={self.s}, rows={len(self.rows)} of {self.d_out}"
