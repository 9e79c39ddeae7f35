"""What a method may declare about a frozen weight: an additive change, and the factors that let a wrapper compute it cheaply."""

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class DenseDelta:
    """dW itself, (d_out, d_in)."""

    delta: Tensor

    def materialise(self) -> Tensor:
        """dW (d_out, d_in)."""
        return self.delta


@dataclass(frozen=True)
class LowRankDelta:
    """dW = up @ down; up (d_out, R), down (R, d_in), any scale already inside one of them."""

    up: Tensor
    down: Tensor

    def materialise(self) -> Tensor:
        """dW (d_out, d_in)."""
        return self.up @ self.down


@dataclass(frozen=True)
class KronDelta:
    """dW = sum_n C_n (x) (A_n B_n), stacked over k output chunks that share C and B but own their A.

    Shapes: C (N, m, m), scale already inside; A (N, k, d_out/(k m), r); B (N, r, d_in/m); dW (d_out, d_in).
    """

    C: Tensor
    A: Tensor
    B: Tensor

    def left(self) -> Tensor:
        """U (d_out * m, N r) with dW.view(d_out * m, d_in / m) = U @ B.view(N r, d_in / m): one product, no Kronecker temporary."""
        N, r = self.A.shape[0], self.A.shape[-1]
        spread = self.C[:, None, :, None, :, None] * self.A[:, :, None, :, None, :]  # (N, k, m, i, m, r)
        return spread.permute(1, 2, 3, 4, 0, 5).reshape(-1, N * r)

    def materialise(self) -> Tensor:
        """dW (d_out, d_in)."""
        N, m, _ = self.C.shape
        r, width = self.B.shape[1:]
        d_out = m * self.A.shape[1] * self.A.shape[2]
        return (self.left() @ self.B.reshape(N * r, width)).view(d_out, m * width)


FactoredDelta = DenseDelta | LowRankDelta | KronDelta


class WeightDelta(nn.Module):
    """An additive change dW of a frozen weight W0; it owns its parameters and states them twice, readably and as factors."""

    def delta(self, W0: Tensor) -> Tensor:
        """dW (d_out, d_in), written as the paper's equation; the oracle that every fast form is tested against."""
        raise NotImplementedError(f"{type(self).__name__} must say its equation in delta(W0)")

    def factors(self, W0: Tensor) -> FactoredDelta:
        """The same dW in the form that is cheapest to apply; dense unless the method knows better."""
        return DenseDelta(self.delta(W0))

    def bias_delta(self, W0: Tensor, b: Tensor | None) -> Tensor | None:
        """What the bias gains, (d_out,); None, the default: nothing."""
        return None
