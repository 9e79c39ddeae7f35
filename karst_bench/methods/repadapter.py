"""RepAdapter: linear adapters before a layer, folded into it [arXiv 2302.08106]."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from karst_bench.errors import UserError
from karst_bench.methods.base import AdaptedModel, Artefact, Method, ModelSpec
from karst_bench.nn.weight_delta import LowRankDelta, WeightDelta

ROLES = ("qkv", "fc1")


class Reparameterised(WeightDelta):
    """dW = s W0 U D; D (h, d) Xavier-uniform, U (d, h) of `groups` diagonal blocks (d/groups, h/groups) = 0."""

    def __init__(self, d: int, *, h: int, s: float, groups: int) -> None:
        super().__init__()
        self.s = s
        self.D = nn.Parameter(nn.init.xavier_uniform_(torch.empty(h, d)))
        self.U = nn.Parameter(torch.zeros(groups, d // groups, h // groups))

    def blocks(self) -> Tensor:
        """U (d, h), its groups on the diagonal."""
        U: Tensor = torch.block_diag(*self.U)
        return U

    def delta(self, W0: Tensor) -> Tensor:
        return self.s * W0 @ self.blocks() @ self.D

    def factors(self, W0: Tensor) -> LowRankDelta:
        return LowRankDelta(up=W0 @ self.blocks(), down=self.s * self.D)


@dataclass(kw_only=True)
class RepAdapter(Method):
    """y = W0 f(x) + b,  f(x) = x + s U D x: an adapter before attention and before the MLP       [RepAdapter, Eq. 6-9]

    Shapes: D (h, d), U (d, h) in `groups` diagonal blocks. Linear, so y = (W0 + s W0 U D) x + b. Without the biases of
    the published code, as in its printed count of 0.22 M, and without its dropout.
    """

    h: int
    s: float
    groups: int

    def attach(self, model: AdaptedModel, artefact: Artefact | None) -> None:
        for site in model.sites(*ROLES):
            if site.d_in % self.groups or self.h % self.groups:
                raise UserError(
                    f"method.groups={self.groups} must divide method.h={self.h} and the width {site.d_in} of {site.name}; "
                    "groups=1 always does"
                )
            model.add_delta(site, Reparameterised(site.d_in, h=self.h, s=self.s, groups=self.groups))

    def expected_params(self, spec: ModelSpec) -> int:
        return sum(self.h * site.d_in + self.h * site.d_in // self.groups for site in spec.having(*ROLES))
