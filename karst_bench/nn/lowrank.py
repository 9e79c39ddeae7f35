"""Low-rank changes and the branch that puts dropout on them."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from karst_bench.nn.weight_delta import LowRankDelta, WeightDelta

HiddenAndUp = tuple[Tensor, Tensor]


class LowRankFactors(WeightDelta):
    """s B A and what starts it: A Kaiming-uniform(sqrt 5), B = 0. Shapes: A (r, d_in), B (d_out, r)."""

    def __init__(self, d_out: int, d_in: int, *, r: int, s: float) -> None:
        super().__init__()
        self.s = s
        self.A = nn.Parameter(torch.empty(r, d_in))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
        self.B = nn.Parameter(torch.zeros(d_out, r))

    def extra_repr(self) -> str:
        return f"r={self.A.shape[0]}, s={self.s}"


class LowRankProduct(LowRankFactors):
    """dW = s * B A                                                        [LoRA, arXiv 2106.09685, Eq. 3]

    Shapes: A (r, d_in), B (d_out, r). Trainable: r (d_in + d_out). Init: A Kaiming-uniform(sqrt 5), B = 0, so dW = 0.
    """

    def delta(self, W0: Tensor) -> Tensor:
        return self.s * self.B @ self.A

    def factors(self, W0: Tensor) -> LowRankDelta:
        return LowRankDelta(up=self.B, down=self.s * self.A)


class DroppedLowRank(nn.Module):
    """x -> up(drop_hidden(down(drop_input(x)))): a low-rank change as a branch, since dropout cannot live inside a weight.

    Shapes: x (..., d_in) -> (..., d_out). In evaluation it equals x dW^T, which is what `delta` merges.
    """

    def __init__(self, update: WeightDelta, *, input_p: float = 0.0, hidden_p: float = 0.0) -> None:
        super().__init__()
        self.update = update
        self.drop_input = nn.Dropout(input_p)
        self.drop_hidden = nn.Dropout(hidden_p)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(*self.low_rank(x))

    def low_rank(self, x: Tensor) -> HiddenAndUp:
        """(hidden (..., R), up (d_out, R)): the output is hidden up^T."""
        factors = self.update.factors(x)
        assert isinstance(factors, LowRankDelta)
        return self.drop_hidden(F.linear(self.drop_input(x), factors.down)), factors.up

    def delta(self, W0: Tensor) -> Tensor:
        """dW (d_out, d_in) of the change that is dropped from, without dropout."""
        return self.update.delta(W0)
