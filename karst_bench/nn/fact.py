"""Factor tuning: one pair of factors for a whole width, a small core for each layer [FacT, arXiv 2212.03145]."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from karst_bench.errors import MisfitError
from karst_bench.nn.lowrank import HiddenAndUp
from karst_bench.nn.model_spec import STANDARD, ModelSpec, Site

ROLES = ("qkv", "proj", "fc1", "fc2")


class SharedFactors(nn.Module):
    """U (r, d) into and V (d, r) out of the small space. Init: U as nn.Linear's, V = 0, so every dW starts at 0."""

    def __init__(self, d: int, r: int) -> None:
        super().__init__()
        self.U = nn.Parameter(torch.empty(r, d).uniform_(-1, 1) / math.sqrt(d))
        self.V = nn.Parameter(torch.zeros(d, r))


class FactorUpdate(nn.Module):
    """x -> s (I_o (x) V) drop(G (I_i (x) U) x), so dW = s (I_o (x) V) G (I_i (x) U)                [FacT, Eq. 5, 8]

    (x) between matrices is the Kronecker product: a layer of o d outputs and i d inputs is cut into o i slices, d x d.
    Shapes: x (..., i d) -> (..., o d); U (r, d), V (d, r), shared; G (o r, i r), this layer's core. Dropout stands
    between core and V, where no weight can hold it: in evaluation the update equals x dW^T, and that is what merges.
    """

    def __init__(self, factors: SharedFactors, *, s: float, dropout: float) -> None:
        super().__init__()
        self.factors = factors
        self.s = s
        self.drop = nn.Dropout(dropout)

    def core(self) -> Tensor:
        """G (o r, i r)."""
        raise NotImplementedError(f"{type(self).__name__} must say its core")

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(*self.low_rank(x))

    def low_rank(self, x: Tensor) -> HiddenAndUp:
        """(hidden (..., o r), up (o d, o r)): the output is hidden up^T."""
        U, V = self.factors.U, self.factors.V
        h = F.linear(x.unflatten(-1, (-1, U.shape[1])), U).flatten(-2)  # (..., i r)
        h = self.drop(F.linear(h, self.core()))
        up = self.s * V
        return h, torch.block_diag(*[up] * (h.shape[-1] // V.shape[1]))

    def delta(self, W0: Tensor) -> Tensor:
        """dW = s V G U by slices (d, d), as large as W0 (o d, i d)."""
        G, U, V = self.core(), self.factors.U, self.factors.V
        slices = G.view(G.shape[0] // len(U), len(U), -1, len(U))  # (o, r, i, r)
        return self.s * torch.einsum("da,oaib,be->odie", V, slices, U).reshape(W0.shape)


def slices_of(site: Site, spec: ModelSpec) -> tuple[int, int]:
    """(o, i): how many d x d slices a layer has along its output and its input.

    Raises: MisfitError where a width is no multiple of the block's.
    """
    assert site.block is not None
    d = spec.widths[site.block]
    if site.d_out % d or site.d_in % d:
        raise MisfitError(
            f"FacT cuts every weight into squares as wide as the block, but {site.name} is {site.d_out} x {site.d_in} in a block "
            f"of width {d}; use a model whose layers are whole multiples of its width, {STANDARD}"
        )
    return site.d_out // d, site.d_in // d


def stage_widths(spec: ModelSpec) -> dict[int, int]:
    """The block width of each stage; a ViT is one stage."""
    return dict(zip(spec.stages, spec.widths, strict=True))
