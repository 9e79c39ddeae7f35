"""GLoRA: a generalised change of every linear layer, searched layer by layer [arXiv 2306.07967]."""

from dataclasses import dataclass
from typing import ClassVar

from karst_bench.methods.base import AdaptedModel, Artefact, ModelSpec
from karst_bench.methods.searched import SearchedMethod
from karst_bench.methods.subnets import ChoiceSpace, Subnet
from karst_bench.nn.glora import OPTIONS, GLoRADelta, option_cost


@dataclass(kw_only=True)
class GLoRA(SearchedMethod):
    """y = (W0 + W0 * A + B) x + b + b * D + E + W0 C                                         [GLoRA]

    A, B: low-rank (d_out, r)(r, d_in), a vector (d_out, 1), a constant or none; C: low-rank (d_in, r)(r, 1), a vector
    (d_in,) or none; D, E: a vector (d_out,), a constant or none. 432 choices a linear layer, which share their storage:
    the supernet trains another one of each layer in every step, evolution finds one for each, and that keeps its weights.
    What a run trains is the supernet; `active_params` is the subnet, before it is found the mean over all.
    """

    retrains: ClassVar[bool] = False
    r: int
    sites: list[str]

    def attach(self, model: AdaptedModel, artefact: Artefact | None) -> None:
        subnet = self._begin(model.spec, artefact)
        self._updates: list[GLoRADelta] = []
        for site in model.sites(*self.sites):
            self._updates.append(GLoRADelta(site.d_out, site.d_in, r=self.r))
            model.add_delta(site, self._updates[-1])
        self.choose(subnet)

    def subnets(self, spec: ModelSpec) -> ChoiceSpace:
        sites = spec.having(*self.sites)
        cost = [costs for site in sites for costs in option_cost(site.d_out, site.d_in, self.r)]
        return ChoiceSpace(cost, p=self.p_mutate, groups=[site.name for site in sites], names=OPTIONS)

    def choose(self, subnet: Subnet) -> None:
        for n, update in enumerate(self._updates):
            update.choice = subnet[n * len(OPTIONS) : (n + 1) * len(OPTIONS)]

    def expected_params(self, spec: ModelSpec) -> int:
        space = self.subnets(spec)
        return space.params(space.largest())

    def active_params(self, spec: ModelSpec) -> int:
        space = self.subnets(spec)
        return round(space.mean_params()) if self._fixed is None else space.params(self._fixed)
