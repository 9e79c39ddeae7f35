"""HiRA: a low-rank factor on every entry of a weight, a change of high rank [ICLR 2025]."""

from dataclasses import dataclass

from karst_bench.methods.base import AdaptedModel, Artefact, Method, ModelSpec
from karst_bench.methods.lora import site_roles
from karst_bench.nn.weight_dependent import HadamardLowRank


@dataclass(kw_only=True)
class Hira(Method):
    """y = (W0 + W0 * (s B A)) x + b, * entry by entry                                               [HiRA, Eq. 4]

    Shapes: A (r, d_in), B (d_out, r). Sites: those of LoRA.
    """

    r: int
    s: float
    sites: str | list[str]

    def __post_init__(self) -> None:
        site_roles(self.sites, self.name)

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles of the sites that are changed."""
        return site_roles(self.sites, self.name)

    def attach(self, model: AdaptedModel, artefact: Artefact | None) -> None:
        for site in model.sites(*self.roles):
            model.add_delta(site, HadamardLowRank(site.d_out, site.d_in, r=self.r, s=self.s))

    def expected_params(self, spec: ModelSpec) -> int:
        return sum(self.r * (site.d_in + site.d_out) for site in spec.having(*self.roles))
