"""SNELLA: SNELL with a mixed kernel, and a budget of entries that moves between layers while training."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from karst_bench.methods.base import AdaptedModel, Artefact
from karst_bench.methods.snell import Snell
from karst_bench.nn.kernel_delta import KernelDelta
from karst_bench.nn.model_spec import Site

DECAY = 0.85  # of both moving averages
POINTS = ("P", "Q")


@dataclass(kw_only=True)
class Snella(Snell):
    """SNELL with D = K + alpha softmax_o(K / gamma) + beta, and V(e) entries in all: V(e) = V_T + (V_0 - V_T)(1 - e/E)^3

    V_0 = (1 - rho_start) and V_T = (1 - rho) of all entries. After every step, for each entry p of P and Q: I = |p dL/dp|,
    Im <- 0.85 Im + 0.15 I, Um <- 0.85 Um + 0.15 |I - Im|. Layer l scores s_l = mean_P(Im Um) + mean_Q(Im Um), and at the
    start of each epoch but the first it is given V(e) s_l / sum s entries, at most all of its own; what is left over goes
    to the others likewise. Trainable: SNELL's and alpha, gamma, beta of each linear.
    """

    rho_start: float

    mixed: ClassVar[bool] = True
    scalars: ClassVar[int] = 3

    def attach(self, model: AdaptedModel, artefact: Artefact | None) -> None:
        self._updates: list[KernelDelta] = []
        super().attach(model, artefact)

    def on_epoch(self, epoch: int, epochs: int) -> None:
        if not self.rho:
            return
        sizes = [update.size for update in self._updates]
        scores = [score(update) for update in self._updates] if epoch else [float(size) for size in sizes]
        if not sum(scores):
            scores = [float(size) for size in sizes]
        first, last = ((1 - rho) * sum(sizes) for rho in (self.rho_start, self.rho))
        for update, kept in zip(self._updates, allocate(scores, sizes, budget(epoch, epochs, first, last)), strict=True):
            assert update.kept is not None
            update.kept.fill_(kept)

    @torch.no_grad()
    def after_step(self, step: int, total: int) -> None:
        for update in self._updates if self.rho else ():
            for name in POINTS:
                points: nn.Parameter = getattr(update, name)
                if points.grad is None:
                    continue
                mean, spread = update.get_buffer(f"mean_{name}"), update.get_buffer(f"spread_{name}")
                importance = (points * points.grad).abs().nan_to_num_()
                mean.lerp_(importance, 1 - DECAY)
                spread.lerp_((importance - mean).abs(), 1 - DECAY)

    def _kept(self, site: Site) -> int | None:
        size = site.d_in * site.d_out
        return round((1 - self.rho_start) * size) if self.rho else None

    def _made(self, update: KernelDelta) -> None:
        for name in POINTS if self.rho else ():
            for average in ("mean", "spread"):
                update.register_buffer(f"{average}_{name}", torch.zeros_like(getattr(update, name)))
        self._updates.append(update)


def score(update: KernelDelta) -> float:
    """mean_P(Im Um) + mean_Q(Im Um) of a layer."""
    parts = [(update.get_buffer(f"mean_{name}") * update.get_buffer(f"spread_{name}")).mean() for name in POINTS]
    return float(parts[0] + parts[1])


def budget(epoch: int, epochs: int, first: float, last: float) -> int:
    """V(e), rounded to whole entries; epochs count from 0."""
    return round(last + (first - last) * (1 - epoch / epochs) ** 3)


def allocate(scores: Sequence[float], sizes: Sequence[int], total: int) -> list[int]:
    """Whole numbers n_l <= sizes[l] in proportion to the scores, which sum to `total` (at most that of the sizes).

    What a full layer cannot take goes to the others in proportion to theirs, equally where these score nothing.
    """
    given, full = [0.0] * len(sizes), set[int]()
    while len(full) < len(sizes):
        open_ = [layer for layer in range(len(sizes)) if layer not in full]
        left, weight = total - sum(sizes[layer] for layer in full), math.fsum(scores[layer] for layer in open_)
        for layer in open_:
            given[layer] = left * (scores[layer] / weight if weight else 1 / len(open_))
        if not (over := {layer for layer in open_ if given[layer] > sizes[layer]}):
            break
        full |= over
    whole = [sizes[layer] if layer in full else math.floor(given[layer]) for layer in range(len(sizes))]
    by_remainder = sorted(range(len(sizes)), key=lambda layer: whole[layer] - given[layer])
    missing = min(total, sum(sizes)) - sum(whole)
    for layer in (layer for layer in by_remainder if whole[layer] < sizes[layer]):
        if missing <= 0:
            break
        whole[layer] += 1
        missing -= 1
    return whole
