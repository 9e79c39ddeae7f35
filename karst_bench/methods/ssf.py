"""SSF: scaling and shifting deep features [arXiv 2210.08823]."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from karst_bench.methods.base import AdaptedModel, Artefact, Method, ModelSpec

ROLES = ("embed", "embed_norm", "norm1", "qkv", "proj", "norm2", "fc1", "fc2", "reduction_norm", "final_norm")


@dataclass(kw_only=True)
class SSF(Method):
    """y = gamma * x + beta after every operation but the patch merging's reduction       [SSF, Eq. 1]

    Shapes: gamma, beta (C,). Init: gamma ~ N(1, std), beta ~ N(0, std), so the start is not the identity unless std = 0.
    Merges into the operation before it.
    """

    identity_at_init: ClassVar[bool] = False
    std: float

    def attach(self, model: AdaptedModel, artefact: Artefact | None) -> None:
        for site in model.sites(*ROLES):
            gamma = nn.Parameter(1 + self.std * torch.randn(site.d_out))
            beta = nn.Parameter(self.std * torch.randn(site.d_out))
            model.affine(site, gamma, beta, centre=0.0)

    def expected_params(self, spec: ModelSpec) -> int:
        return sum(2 * site.d_out for site in spec.having(*ROLES))
