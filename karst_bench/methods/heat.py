"""HEAT: 1-bit low-rank changes of q and v for the attention heads that matter; a re-implementation [arXiv 2404.08894]."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from karst_bench.errors import MisfitError, UserError
from karst_bench.methods.base import AdaptedModel, Artefact, Method, ModelSpec, ScoringModel
from karst_bench.nn.binary import BinaryLowRank
from karst_bench.nn.lowrank import DroppedLowRank
from karst_bench.nn.model_spec import STANDARD, Site

IMPORTANCE = ("activation", "weight")
SCOPES = ("network", "layer")


@dataclass(kw_only=True)
class Heat(Method):
    """dW_h = s b(U_h) b(D) for q and v of every head h that is kept, 0 for the others   [HEAT, re-implementation]

    b is the 1-bit quantiser of Bi-LoRA. Importance by first-order Taylor expansion: `activation` I_h = sum_images |<z_h,
    dL/dz_h>| over the head's output z_h, `weight` I_h = |<theta_h, dL/dtheta_h>| over its rows of W_q, W_k and W_v, summed
    over batches. The share `masked` of the heads with the least importance is left out (at least one of them, never all):
    the same head numbers in every layer (`network`: I_h summed over layers), or each layer's own (`layer`). Swin has layers
    of different head counts, so there it is always each layer's own. Shapes: U_h (d_head, r), D (r, d).
    """

    r: int
    s: float
    dropout: float
    masked: float
    importance: str
    scope: str
    score_batches: int
    score_batch: int

    identity_at_init: ClassVar[bool] = False  # U cannot be zero in one bit
    scored: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.importance not in IMPORTANCE or self.scope not in SCOPES:
            raise UserError(
                f"method.importance={self.importance!r}, scope={self.scope!r}; use importance of {', '.join(IMPORTANCE)} and "
                f"scope of {', '.join(SCOPES)}"
            )
        self._found: Artefact | None = None

    def score(self, model: ScoringModel) -> Artefact:
        """`importance/<layer>` (heads,) in float64, and the numbers of the heads that are kept, by layer."""
        spec = model.spec
        _refuse_grouped(spec)
        found = [torch.zeros(heads, dtype=torch.float64) for heads in spec.heads]
        projections = spec.having("proj")
        if len(projections) != spec.depth or (self.importance == "weight" and not _weights(spec) <= dict(spec.names).keys()):
            raise MisfitError("the method scores the heads of one attention in each block by its fused qkv projection, and this "
                              "model has several or keeps q, k and v apart; use a method without a scoring pass, "
                              "such as lora")  # fmt: skip
        for batch in model.batches(self.score_batches, self.score_batch, inputs=projections):
            for layer, site in enumerate(projections):
                if self.importance == "activation":
                    z, dz = batch.inputs[site.path]
                    found[layer] += activation_importance(z, dz, heads=spec.heads[layer], images=batch.images)
                else:
                    name = f"{spec.having('qkv')[layer].path}.weight"
                    found[layer] += weight_importance(model.weight(name), batch.gradients[name], heads=spec.heads[layer])
        if not any(importance.any() for importance in found):
            raise UserError(f"{self.name}: no head has a gradient; the classifier must not be zero")
        if self.scope == "network" and len(set(spec.heads)) == 1:
            total = torch.stack(found).sum(0)
            kept = [self._kept(total)] * spec.depth
        else:
            kept = [self._kept(importance) for importance in found]
        return Artefact({f"importance/{layer}": importance for layer, importance in enumerate(found)}, {"kept": kept})

    def attach(self, model: AdaptedModel, artefact: Artefact | None) -> None:
        _refuse_grouped(model.spec)
        self._found = artefact
        for site in model.sites("q", "v"):
            update = BinaryLowRank(site.d_out, site.d_in, r=self.r, s=self.s, rows=self._rows(site))
            model.branch(site, DroppedLowRank(update, hidden_p=self.dropout), merge=DroppedLowRank.delta)

    def expected_params(self, spec: ModelSpec) -> int:
        return sum(self.r * (site.d_in + len(self._heads(site)) * (site.d_out // (site.heads or 1)))
                   for site in spec.having("q", "v"))  # fmt: skip

    def stored_bits(self, spec: ModelSpec) -> int:
        return self.expected_params(spec)

    def _kept(self, importance: Tensor) -> list[int]:
        heads = len(importance)
        drop = min(max(1, round(self.masked * heads)), heads - 1) if self.masked else 0
        return sorted(importance.argsort(stable=True)[drop:].tolist())

    def _heads(self, site: Site) -> list[int]:
        assert site.block is not None and site.heads is not None
        return list(range(site.heads)) if self._found is None else self._found.facts["kept"][site.block]

    def _rows(self, site: Site) -> Tensor:
        """The site's own output rows that belong to heads which are kept."""
        assert site.rows is not None
        bounds = [site.head_rows()[head] for head in self._heads(site)]
        return torch.cat([torch.arange(start - site.rows[0], stop - site.rows[0]) for start, stop in bounds])


def _refuse_grouped(spec: ModelSpec) -> None:
    if any(site.rows is None for site in spec.having("q", "v")):
        raise MisfitError("the method keeps or drops a head of q and v together, but in this model several heads of q share one of "
                          f"v; use a standard ViT, {STANDARD}, or a method without heads, such as lora")  # fmt: skip


def _weights(spec: ModelSpec) -> set[str]:
    return {f"{site.path}.weight" for site in spec.having("qkv")}


def activation_importance(z: Tensor, dz: Tensor, *, heads: int, images: int) -> Tensor:
    """sum over images of |sum_{n,c} z dL/dz| for each head, (heads,) in float64.

    Shapes: z and dz (B, L, d), or (B nW, L, d) with the windows of an image one after the other; images: B.
    """
    product = (z.double() * dz.double()).unflatten(-1, (heads, -1)).sum((1, 3))  # (B nW, heads)
    importance: Tensor = product.unflatten(0, (images, -1)).sum(1).abs().sum(0).cpu()
    return importance


def weight_importance(weight: Tensor, gradient: Tensor, *, heads: int) -> Tensor:
    """|sum theta dL/dtheta| over a head's rows of W_q, W_k and W_v, (heads,) in float64; weight (3 d, d)."""
    product = (weight.double() * gradient.double()).sum(1).view(3, heads, -1)
    return product.sum((0, 2)).abs().cpu()
