"""LoRA: low-rank updates of linear layers [arXiv 2106.09685]."""

from dataclasses import dataclass

from karst_bench.errors import UserError
from karst_bench.methods.base import AdaptedModel, Artefact, Method, ModelSpec
from karst_bench.nn.lowrank import DroppedLowRank, LowRankProduct

SITES = {"qv": ("q", "v"), "qkv_fused": ("qkv",), "all": ("qkv", "proj", "fc1", "fc2")}


@dataclass(kw_only=True)
class LoRA(Method):
    """y = (W0 + s B A) x + b                                                     [LoRA, Eq. 3]

    Shapes: A (r, d_in), B (d_out, r). Sites: `qv` (q and v apart), `qkv_fused` (one A for q, k, v: NOAH's layout, the
    same count), `all`. Dropout acts on the input of A.
    """

    r: int
    s: float
    dropout: float
    sites: str

    def __post_init__(self) -> None:
        if self.sites not in SITES:
            raise UserError(f"method.sites={self.sites!r} is unknown for LoRA; use one of {', '.join(SITES)}")

    def attach(self, model: AdaptedModel, artefact: Artefact | None) -> None:
        for site in model.sites(*SITES[self.sites]):
            update = LowRankProduct(site.d_out, site.d_in, r=self.r, s=self.s)
            if self.dropout:
                model.branch(site, DroppedLowRank(update, input_p=self.dropout), merge=DroppedLowRank.delta)
            else:
                model.add_delta(site, update)

    def expected_params(self, spec: ModelSpec) -> int:
        return sum(self.r * (site.d_in + site.d_out) for site in spec.having(*SITES[self.sites]))
