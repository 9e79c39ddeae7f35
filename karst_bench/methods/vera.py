"""VeRA: one random low-rank pair for all layers, scaled by two vectors a layer [arXiv 2310.11454]."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from karst_bench.methods.base import AdaptedModel, Artefact, Method, ModelSpec
from karst_bench.nn.weight_delta import LowRankDelta, WeightDelta


class ScaledRandom(WeightDelta):
    """dW = diag(b) B diag(d) A; A (r, d_in), B (d_out, r) frozen and shared, b (d_out,) = 0, d (r,) = start."""

    A: Tensor
    B: Tensor

    def __init__(self, A: Tensor, B: Tensor, *, start: float) -> None:
        super().__init__()
        self.register_buffer("A", A, persistent=False)
        self.register_buffer("B", B, persistent=False)
        self.b = nn.Parameter(torch.zeros(B.shape[0]))
        self.d = nn.Parameter(torch.full((A.shape[0],), start))

    def delta(self, W0: Tensor) -> Tensor:
        return torch.diag(self.b) @ self.B @ torch.diag(self.d) @ self.A

    def factors(self, W0: Tensor) -> LowRankDelta:
        return LowRankDelta(up=self.b[:, None] * self.B, down=self.d[:, None] * self.A)


@dataclass(kw_only=True)
class VeRA(Method):
    """y = (W0 + diag(b) B diag(d) A) x + b0 on q and v                                        [VeRA, Eq. 2]

    Shapes: A (r, d_in), B (d_out, r), random, frozen, the same for all layers of a shape; b (d_out,), d (r,) train.
    A and B are not stored: they follow from `key` and the shape, on every machine and device.
    """

    may_be_zero: ClassVar[frozenset[str]] = frozenset({"key"})
    r: int
    start: float
    key: int

    def attach(self, model: AdaptedModel, artefact: Artefact | None) -> None:
        pairs: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        for site in model.sites("q", "v"):
            shape = site.d_out, site.d_in
            if shape not in pairs:
                pairs[shape] = self._random(self.r, site.d_in), self._random(site.d_out, self.r)
            model.add_delta(site, ScaledRandom(*pairs[shape], start=self.start))

    def expected_params(self, spec: ModelSpec) -> int:
        return sum(site.d_out + self.r for site in spec.having("q", "v"))

    def _random(self, rows: int, columns: int) -> Tensor:
        """Kaiming-uniform (gain sqrt 2) of a generator of its own: U(-v, v), v = sqrt(6 / columns)."""
        generator = torch.Generator().manual_seed(self.key)
        values = torch.rand(rows, columns, generator=generator, device="cpu") * 2 - 1
        return (values * math.sqrt(6 / columns)).to(torch.empty(0).device)
