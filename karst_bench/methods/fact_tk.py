"""FacT-TK: all weights of the network as one Tucker tensor [arXiv 2212.03145]."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from karst_bench.methods.base import AdaptedModel, Artefact, Method, ModelSpec
from karst_bench.nn.fact import ROLES, FactorUpdate, SharedFactors, slices_of, stage_widths


class TuckerCore(nn.Module):
    """T_j = sum_k C[:, :, k] P[k, j]; C (r, r, r), P (r, slices), both Xavier-uniform."""

    def __init__(self, r: int, slices: int) -> None:
        super().__init__()
        self.C = nn.Parameter(torch.empty(r, r, r).uniform_(-1, 1) * math.sqrt(3) / r)
        self.P = nn.Parameter(torch.empty(r, slices).uniform_(-1, 1) * math.sqrt(6 / (slices + r)))


class TuckerUpdate(FactorUpdate):
    """G from the network's core: this layer's slices T (r, r, n), laid out as the published checkpoints have them.

    The published code reshapes T row-major, so the four slices of fc1 and fc2 are interleaved, not stacked:
    fc1: G = T.reshape(r, 4 r)^T; fc2: G = T.reshape(r, 4 r); q, k, v, proj: G = [T_j^T] stacked.
    """

    def __init__(
        self, factors: SharedFactors, tucker: TuckerCore, *, role: str, columns: slice, s: float, dropout: float
    ) -> None:
        super().__init__(factors, s=s, dropout=dropout)
        self.tucker = tucker
        self.role, self.columns = role, columns

    def core(self) -> Tensor:
        T = torch.einsum("abk,kj->abj", self.tucker.C, self.tucker.P[:, self.columns])
        if self.role == "fc2":
            return T.flatten(1)
        if self.role == "fc1":
            return T.flatten(1).T
        return T.permute(2, 1, 0).flatten(0, 1)


@dataclass(kw_only=True)
class FacTTK(Method):
    """dW_j = s V T_j^T U,  T_j = sum_k C[:, :, k] P[k, j] for every d x d slice j of qkv, proj, fc1, fc2  [FacT, Eq. 8]

    Shapes: U (r, d), V (d, r) once for the network (Swin: once for each stage); C (r, r, r) and P (r, 12 L) once.
    Trainable: 2 d r + r^3 + 12 L r. Dropout acts between core and V. Init: V = 0.
    """

    r: int
    s: float
    dropout: float

    def attach(self, model: AdaptedModel, artefact: Artefact | None) -> None:
        spec, first = model.spec, 0
        ends = {stage: SharedFactors(d, self.r) for stage, d in stage_widths(spec).items()}
        tucker = TuckerCore(self.r, self._slices(spec))
        model.share("fact.core", tucker)
        for stage, factors in ends.items():
            model.share(f"fact.{stage}", factors)
        for site in model.sites(*ROLES):
            outs, ins = slices_of(site, spec)
            columns, first = slice(first, first + outs * ins), first + outs * ins
            update = TuckerUpdate(
                ends[site.stage], tucker, role=site.role, columns=columns, s=self.s, dropout=self.dropout
            )
            model.branch(site, update, merge=FactorUpdate.delta)

    def expected_params(self, spec: ModelSpec) -> int:
        return sum(2 * d * self.r for d in stage_widths(spec).values()) + self.r**3 + self.r * self._slices(spec)

    def _slices(self, spec: ModelSpec) -> int:
        return sum(outs * ins for outs, ins in (slices_of(site, spec) for site in spec.having(*ROLES)))
