"""GLoRA's generalised change of a linear layer, every option of it on one storage."""

import torch
from torch import Tensor, nn

from karst_bench.nn.weight_delta import DenseDelta, FactoredDelta, LowRankDelta, WeightDelta

# What each support tensor may be, the whole storage first; a choice is the index of one word for each.
OPTIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("A", ("lora", "vector", "constant", "none")),
    ("B", ("lora", "vector", "constant", "none")),
    ("C", ("lora", "vector", "none")),
    ("D", ("vector", "constant", "none")),
    ("E", ("vector", "constant", "none")),
)


class GLoRADelta(WeightDelta):
    """W = W0 + W0 * A + B,  bias = b + b * D + E + W0 C                        [GLoRA, arXiv 2306.07967]

    A, B: `lora` X_d X_u, `vector` the first column of X_d, `constant` its first entry; C: `lora` C_d C_u or `vector` the
    first column of C_d; D, E: `vector`, or `constant` their first entry; all may be `none`. Shapes: X_d (d_out, r), X_u
    (r, d_in), C_d (d_in, r), C_u (r, 1), D and E (d_out,). Init: X_u and C_u Xavier-uniform, the others 0: nothing changes.
    """

    def __init__(self, d_out: int, d_in: int, *, r: int) -> None:
        super().__init__()
        for name in "AB":
            self.register_parameter(f"{name}_d", nn.Parameter(torch.zeros(d_out, r)))
            self.register_parameter(f"{name}_u", nn.Parameter(nn.init.xavier_uniform_(torch.empty(r, d_in))))
        self.C_d = nn.Parameter(torch.zeros(d_in, r))
        self.C_u = nn.Parameter(nn.init.xavier_uniform_(torch.empty(r, 1)))
        self.D = nn.Parameter(torch.zeros(d_out))
        self.E = nn.Parameter(torch.zeros(d_out))
        self.choice: tuple[int, ...] = (0,) * len(OPTIONS)

    @property
    def words(self) -> dict[str, str]:
        """The option of each support tensor."""
        return {name: options[index] for (name, options), index in zip(OPTIONS, self.choice, strict=True)}

    def delta(self, W0: Tensor) -> Tensor:
        dW = torch.zeros_like(W0)
        if (A := self._matrix("A")) is not None:
            dW = dW + W0 * A
        if (B := self._matrix("B")) is not None:
            dW = dW + B
        return dW

    def bias_delta(self, W0: Tensor, b: Tensor | None) -> Tensor | None:
        """b * D + E + W0 C, (d_out,); None where nothing of it is on."""
        words, parts = self.words, []
        if b is not None and words["D"] != "none":
            parts.append(b * (self.D if words["D"] == "vector" else self.D[:1]))
        if words["E"] != "none":
            parts.append((self.E if words["E"] == "vector" else self.E[:1]).expand(W0.shape[0]))
        if words["C"] != "none":
            parts.append(W0 @ ((self.C_d @ self.C_u)[:, 0] if words["C"] == "lora" else self.C_d[:, 0]))
        return torch.stack(parts).sum(0) if parts else None

    def factors(self, W0: Tensor) -> FactoredDelta:
        words = self.words
        if words["A"] == "none" and words["B"] == "lora":
            return LowRankDelta(up=self.get_parameter("B_d"), down=self.get_parameter("B_u"))
        return DenseDelta(self.delta(W0))

    def _matrix(self, name: str) -> Tensor | None:
        """A or B in a shape that broadcasts to (d_out, d_in)."""
        word, X_d = self.words[name], self.get_parameter(f"{name}_d")
        if word == "lora":
            return X_d @ self.get_parameter(f"{name}_u")
        return None if word == "none" else X_d[:, :1] if word == "vector" else X_d[:1, :1]


def option_cost(d_out: int, d_in: int, r: int) -> list[list[int]]:
    """Scalars of each option of each support tensor, in the order of OPTIONS."""
    matrix, vector = [r * (d_out + d_in), d_out, 1, 0], [d_out, 1, 0]
    return [matrix, matrix, [r * (d_in + 1), d_in, 0], vector, vector]
