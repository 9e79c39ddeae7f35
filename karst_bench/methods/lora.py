"""LoRA: low-rank updates of linear layers [arXiv 2106.09685]."""

from dataclasses import dataclass

from karst_bench.errors import UserError
from karst_bench.methods.base import AdaptedModel, Artefact, Method, ModelSpec
from karst_bench.nn.lowrank import DroppedLowRank, LowRankProduct

ROLES = ("q", "k", "v", "qkv", "proj", "fc1", "fc2", "reduction")
SITES = {"qv": ("q", "v"), "qkv_fused": ("qkv",), "all": ("qkv", "proj", "fc1", "fc2")}


def site_roles(sites: str | list[str], method: str) -> tuple[str, ...]:
    """The roles that `sites` names: qv, qkv_fused or all, or a list of roles. Raises: UserError for others, and a site twice."""
    if isinstance(sites, str) and sites in SITES:
        return SITES[sites]
    if isinstance(sites, str) or not sites or not set(sites) <= set(ROLES) or len(set(sites)) < len(sites):
        raise UserError(f"method.sites={sites!r} is unknown for {method}; use one of {', '.join(SITES)}, or a list of some of "
                        f"{', '.join(ROLES)}")  # fmt: skip
    if "qkv" in sites and {"q", "k", "v"} & set(sites):
        raise UserError(f"method.sites={sites} names q, k or v twice, as qkv holds them; use qkv, or some of q, k, v")
    return tuple(sites)


@dataclass(kw_only=True)
class LoRA(Method):
    """y = (W0 + s B A) x + b                                                     [LoRA, Eq. 3]

    Shapes: A (r, d_in), B (d_out, r). Sites: `qv` (q and v apart), `qkv_fused` (one A for q, k, v: NOAH's layout, the
    same count), `all`. Dropout acts on the input of A.
    """

    r: int
    s: float
    dropout: float
    sites: str | list[str]

    def __post_init__(self) -> None:
        site_roles(self.sites, "LoRA")

    def attach(self, model: AdaptedModel, artefact: Artefact | None) -> None:
        for site in model.sites(*site_roles(self.sites, "LoRA")):
            update = LowRankProduct(site.d_out, site.d_in, r=self.r, s=self.s)
            if self.dropout:
                model.branch(site, DroppedLowRank(update, input_p=self.dropout), merge=DroppedLowRank.delta)
            else:
                model.add_delta(site, update)

    def expected_params(self, spec: ModelSpec) -> int:
        return sum(self.r * (site.d_in + site.d_out) for site in spec.having(*site_roles(self.sites, "LoRA")))
