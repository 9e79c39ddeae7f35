"""RepAdapter: linear adapters before a layer, folded into it [arXiv 2302.08106]."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from karst_bench.errors import UserError
from karst_bench.methods.base import AdaptedModel, Artefact, Method, ModelSpec

ROLES = ("qkv", "fc1")


class Reparameterised(nn.Module):
    """x -> x + s (U drop(D x + a) + b); D (h, d) Xavier-uniform, U (d, h) of `groups` diagonal blocks (d/groups, h/groups) = 0.

    The biases a (h) and b (d) start at 0, where there are any. Shapes: x (..., d).
    """

    def __init__(self, d: int, *, h: int, s: float, groups: int, dropout: float, biases: bool) -> None:
        super().__init__()
        self.s = s
        self.D = nn.Parameter(nn.init.xavier_uniform_(torch.empty(h, d)))
        self.U = nn.Parameter(torch.zeros(groups, d // groups, h // groups))
        self.a = nn.Parameter(torch.zeros(h)) if biases else None
        self.b = nn.Parameter(torch.zeros(d)) if biases else None
        self.drop = nn.Dropout(dropout)

    def blocks(self) -> Tensor:
        """U (d, h), its groups on the diagonal."""
        U: Tensor = torch.block_diag(*self.U)
        return U

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.drop(linear(x, self.D, self.a))
        return x + self.s * linear(hidden, self.blocks(), self.b)

    def fold_into(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """(W + s W U D, bias + s W (U a + b)) of the layer that reads f(x) in evaluation."""
        U = self.blocks()
        if self.a is not None and self.b is not None:
            shift = self.s * weight @ (U @ self.a + self.b)
            bias = shift if bias is None else bias + shift
        return weight + self.s * weight @ U @ self.D, bias


@dataclass(kw_only=True)
class RepAdapter(Method):
    """y = W0 f(x) + b0,  f(x) = x + s (U drop(D x + a) + b), before attention and before the MLP [RepAdapter, arXiv 2302.08106]

    Shapes: D (h, d), U (d, h) in `groups` diagonal blocks, a (h), b (d). Linear but for dropout in training, so that it merges:
    y = (W0 + s W0 U D) x + b0 + s W0 (U a + b). biases: the published code's a and b, which its printed count of 0.22 M is without.
    """

    h: int
    s: float
    groups: int
    dropout: float
    biases: bool

    def attach(self, model: AdaptedModel, artefact: Artefact | None) -> None:
        for site in model.sites(*ROLES):
            if site.d_in % self.groups or self.h % self.groups:
                raise UserError(
                    f"method.groups={self.groups} must divide method.h={self.h} and the width {site.d_in} of {site.name}; "
                    "groups=1 always does"
                )
            adapter = Reparameterised(
                site.d_in, h=self.h, s=self.s, groups=self.groups, dropout=self.dropout, biases=self.biases
            )
            model.before(site, adapter)

    def expected_params(self, spec: ModelSpec) -> int:
        biases = sum(self.h + site.d_in for site in spec.having(*ROLES)) if self.biases else 0
        return biases + sum(self.h * site.d_in + self.h * site.d_in // self.groups for site in spec.having(*ROLES))
