"""Changes that are made of the frozen weight itself: of its rows' lengths, of its entries, of its input's axes."""

import torch
from torch import Tensor, nn

from karst_bench.nn.lowrank import LowRankFactors
from karst_bench.nn.weight_delta import WeightDelta


class MagnitudeDirection(LowRankFactors):
    """W0 + dW = (|W0| + mu) V / |V|, V = W0 + s B A, |.| the length of each output row      [DoRA, arXiv 2402.09353, Eq. 5]

    |V| is a constant in backward (its Section 4.3). Shapes: A (r, d_in), B (d_out, r), mu (d_out,). Trainable: r (d_in +
    d_out) + d_out. Init: A Kaiming-uniform(sqrt 5), B = 0, mu = 0, so dW = 0. The paper's m is |W0| + mu.
    """

    def __init__(self, d_out: int, d_in: int, *, r: int, s: float) -> None:
        super().__init__(d_out, d_in, r=r, s=s)
        self.mu = nn.Parameter(torch.zeros(d_out))

    def delta(self, W0: Tensor) -> Tensor:
        change = self.s * self.B @ self.A
        V = W0 + change
        length: Tensor = V.detach().norm(dim=1, keepdim=True)
        m: Tensor = W0.norm(dim=1, keepdim=True) + self.mu[:, None]
        return change + (m / length - 1) * V


class HadamardLowRank(LowRankFactors):
    """dW = W0 * (s B A), entry by entry                                                              [HiRA, ICLR 2025, Eq. 4]

    Shapes: A (r, d_in), B (d_out, r). Trainable: r (d_in + d_out). Init: A Kaiming-uniform(sqrt 5), B = 0, so dW = 0.
    """

    def delta(self, W0: Tensor) -> Tensor:
        return W0 * (self.s * self.B @ self.A)


class InputRotation(WeightDelta):
    """W0 + dW = W0 R^T, R = diag(R_1, ..., R_n), R_k = (I - Q_k)(I + Q_k)^-1, Q_k skew            [OFT, arXiv 2306.07280]

    Shapes: q (n, b (b - 1) / 2), the upper triangles of the Q_k; b n = d_in. Trainable: d_in (b - 1) / 2. Init: q = 0, so
    dW = 0. Lengths of rows and angles between them stay as they are.
    """

    upper: Tensor

    def __init__(self, d_in: int, *, b: int) -> None:
        super().__init__()
        self.b = b
        self.q = nn.Parameter(torch.zeros(d_in // b, b * (b - 1) // 2))
        self.register_buffer("upper", torch.triu_indices(b, b, 1), persistent=False)

    def rotations(self) -> Tensor:
        """R_1, ..., R_n: (n, b, b)."""
        Q = self.q.new_zeros(len(self.q), self.b, self.b)
        Q[:, self.upper[0], self.upper[1]] = self.q
        Q = Q - Q.mT
        I = torch.eye(self.b, dtype=Q.dtype, device=Q.device).expand_as(Q)  # noqa: E741
        inverse_times: Tensor = torch.linalg.solve_ex(I - Q, I + Q)[0]  # R^T; never singular, so nothing is asked of the device
        return inverse_times.mT

    def delta(self, W0: Tensor) -> Tensor:
        blocks = W0.unflatten(1, (-1, self.b))  # (d_out, n, b)
        rotated: Tensor = torch.einsum("onc,nkc->onk", blocks, self.rotations())
        return rotated.flatten(1) - W0

    def extra_repr(self) -> str:
        return f"b={self.b}"
