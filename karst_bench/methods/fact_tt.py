"""FacT-TT: every block's weights as one tensor train with shared ends [arXiv 2212.03145]."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from karst_bench.methods.base import AdaptedModel, Artefact, Method, ModelSpec
from karst_bench.nn.fact import ROLES, FactorUpdate, SharedFactors, slices_of, stage_widths


class TrainUpdate(FactorUpdate):
    """G is this layer's own, drawn like nn.Linear's weight."""

    def __init__(self, factors: SharedFactors, *, outs: int, ins: int, r: int, s: float, dropout: float) -> None:
        super().__init__(factors, s=s, dropout=dropout)
        self.G = nn.Parameter(torch.empty(outs * r, ins * r).uniform_(-1, 1) / math.sqrt(ins * r))

    def core(self) -> Tensor:
        return self.G


@dataclass(kw_only=True)
class FacTTT(Method):
    """dW = s V G U for every d x d slice of qkv, proj, fc1 and fc2                            [FacT, Eq. 5]

    Shapes: U (r, d), V (d, r) once for the network (Swin: once for each stage); G (r, r) for each slice: q, k, v, proj,
    four of fc1, four of fc2. Trainable: 2 d r + 12 r^2 for each block. Dropout acts between core and V. Init: V = 0.
    """

    r: int
    s: float
    dropout: float

    def attach(self, model: AdaptedModel, artefact: Artefact | None) -> None:
        spec = model.spec
        ends = {stage: SharedFactors(d, self.r) for stage, d in stage_widths(spec).items()}
        for stage, factors in ends.items():
            model.share(f"fact.{stage}", factors)
        for site in model.sites(*ROLES):
            outs, ins = slices_of(site, spec)
            update = TrainUpdate(ends[site.stage], outs=outs, ins=ins, r=self.r, s=self.s, dropout=self.dropout)
            model.branch(site, update, merge=FactorUpdate.delta)

    def expected_params(self, spec: ModelSpec) -> int:
        slices = sum(outs * ins for outs, ins in (slices_of(site, spec) for site in spec.having(*ROLES)))
        return sum(2 * d * self.r for d in stage_widths(spec).values()) + slices * self.r**2
