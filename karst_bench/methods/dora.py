"""DoRA: a weight's rows as length and direction, the direction changed by low rank [arXiv 2402.09353]."""

from dataclasses import dataclass

from karst_bench.methods.base import AdaptedModel, Artefact, ModelSpec
from karst_bench.methods.hira import Hira
from karst_bench.nn.weight_dependent import MagnitudeDirection


@dataclass(kw_only=True)
class Dora(Hira):
    """y = m (W0 + s B A) / |W0 + s B A| x + b, m = |W0| + mu                                        [DoRA, Eq. 5]

    |.| is the length of each output row, a constant in backward where V = W0 + s B A stands below. Shapes: A (r, d_in),
    B (d_out, r), mu (d_out,). Sites: those of LoRA.
    """

    def attach(self, model: AdaptedModel, artefact: Artefact | None) -> None:
        for site in model.sites(*self.roles):
            model.add_delta(site, MagnitudeDirection(site.d_out, site.d_in, r=self.r, s=self.s))

    def expected_params(self, spec: ModelSpec) -> int:
        return super().expected_params(spec) + sum(site.d_out for site in spec.having(*self.roles))
