"""OFT: orthogonal rotations of what a frozen weight reads [arXiv 2306.07280]."""

from dataclasses import dataclass
from typing import ClassVar

from karst_bench.errors import UserError
from karst_bench.methods.base import AdaptedModel, Artefact, Method, ModelSpec
from karst_bench.nn.weight_dependent import InputRotation

SITES = ("q", "k", "v", "proj", "fc1", "fc2")


@dataclass(kw_only=True)
class OFT(Method):
    """y = W0 R^T x + b, R block-diagonal of R_k = (I - Q_k)(I + Q_k)^-1, Q_k = -Q_k^T                  [OFT, Section 3.4]

    Blocks of b x b, so b must divide the inputs; each Q_k holds b (b - 1) / 2 numbers. q, k and v are rotated apart.
    """

    b: int
    sites: list[str]

    graphable: ClassVar[bool] = False  # a batched solve in a captured graph: not measured

    def __post_init__(self) -> None:
        if not set(self.sites) <= set(SITES) or not self.sites:
            raise UserError(f"method.sites={self.sites} is unknown for OFT; use some of {', '.join(SITES)}")

    def attach(self, model: AdaptedModel, artefact: Artefact | None) -> None:
        for site in model.sites(*self.sites):
            if site.d_in % self.b:
                raise UserError(
                    f"method.b={self.b} does not divide the {site.d_in} inputs of {site.name} on this {model.spec.family}; use "
                    "a divisor"
                )
            model.add_delta(site, InputRotation(site.d_in, b=self.b))

    def expected_params(self, spec: ModelSpec) -> int:
        return sum(site.d_in * (self.b - 1) // 2 for site in spec.having(*self.sites))
