"""Sums of Kronecker products with a low-rank second factor [KARST, arXiv 2502.06779, Eq. 1-3]."""

import math

import torch
from torch import Tensor, nn

from karst_bench.nn.weight_delta import KronDelta, WeightDelta

INITS = ("gaussian", "kaiming_uniform")


def divisors(*widths: int) -> list[int]:
    """The integers that divide every one of the widths, ascending."""
    common = math.gcd(*widths)
    return [m for m in range(1, common + 1) if common % m == 0]


class KroneckerSum(WeightDelta):
    """dW = sigma * sum_n C_n (x) (A_n B_n),  n = 1..N                     [KARST, Eq. 3]

    Shapes: C (N, m, m); A (N, k, d_out/(k m), r); B (N, r, d_in/m); dW (d_out, d_in). (x) is the Kronecker product.
    A C of (1, m, m) serves all kernels. k chunks of the output (q, k, v of a fused projection) share C and B and have an A each.
    Trainable: N * (m^2 + r * (d_in + d_out) / m). Init: C, A drawn, B = 0, so dW = 0.
    Raises: ValueError if m does not divide d_in and d_out / k (the message names the divisors).
    """

    def __init__(
        self, d_out: int, d_in: int, *, N: int, m: int, r: int, sigma: float, init: str, chunks: int = 1,
        C: nn.Parameter | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if N < 1 or r < 1 or m < 1:
            raise ValueError(f"N={N}, m={m}, r={r} must all be at least 1")
        if d_out % (chunks * m) or d_in % m:
            raise ValueError(
                f"m={m} must divide d_in={d_in} and d_out={d_out // chunks}; try one of {divisors(d_in, d_out // chunks)}"
            )
        self.sigma = sigma
        self.C = C if C is not None else nn.Parameter(drawn(init, N, m, m, fan_in=m))
        height = d_out // (chunks * m)
        self.A = nn.Parameter(drawn(init, N, chunks, height, r, fan_in=height))
        self.B = nn.Parameter(torch.zeros(N, r, d_in // m))

    def delta(self, W0: Tensor) -> Tensor:
        chunks, kernels = self.A.shape[1], list(zip(self.C.expand(len(self.A), -1, -1), self.A, self.B, strict=True))
        return self.sigma * torch.cat([
            torch.stack([torch.kron(C_n, A_n[c] @ B_n) for C_n, A_n, B_n in kernels]).sum(0) for c in range(chunks)
        ])  # fmt: skip

    def factors(self, W0: Tensor) -> KronDelta:
        C = self.C.expand(len(self.A), -1, -1)
        return KronDelta(C=C if self.sigma == 1 else self.sigma * C, A=self.A, B=self.B)

    def extra_repr(self) -> str:
        N, chunks, _, r = self.A.shape
        m = self.C.shape[-1]
        return f"N={N}, m={m}, r={r}, chunks={chunks}, sigma={self.sigma}"


def drawn(init: str, *shape: int, fan_in: int) -> Tensor:
    """A start value with variance 1 / (3 fan_in): `gaussian` (the paper) or `kaiming_uniform` (its code, a = sqrt 5)."""
    if init == "gaussian":
        return torch.randn(shape) / math.sqrt(3 * fan_in)
    if init == "kaiming_uniform":
        return torch.empty(shape).uniform_(-1, 1) / math.sqrt(fan_in)
    raise ValueError(f"init={init!r} is unknown; use one of {', '.join(INITS)}")
