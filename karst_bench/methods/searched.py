"""What methods that search have in common: a supernet that draws another subnet in every step, and what was found."""

from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar

import torch

from karst_bench.errors import UserError
from karst_bench.methods.base import Artefact, Method, ModelSpec
from karst_bench.methods.subnets import SearchStages, Subnet, SubnetSpace


@dataclass(kw_only=True)
class SearchedMethod(Method):
    """A method whose `stages` train a supernet and search it. Attached without an artefact it is the supernet, in training
    another subnet in every step; with one, the subnet that `found` put there.

    Subclasses say their space in `subnets` and how the attached modules become a subnet in `choose`.
    """

    graphable: ClassVar[bool] = False
    retrains: ClassVar[bool]  # whether a found subnet starts anew from the pre-trained weights, or keeps the supernet's
    p_mutate: float
    stages: dict[str, Any]

    def __post_init__(self) -> None:
        if not 0 <= self.p_mutate <= 1:
            raise UserError(f"method.p_mutate={self.p_mutate} must lie in [0, 1]")
        self._stages = SearchStages.of(self.stages, retrains=self.retrains) if self.stages else None
        self._fixed: Subnet | None = None
        self._drawing: SubnetSpace | None = None
        self._seed = 0

    def search_stages(self) -> SearchStages | None:
        return self._stages

    def before_step(self, step: int, total: int) -> None:
        if self._drawing is not None:  # by the step's number alone: a resumed run draws what it would have drawn
            self.choose(self._drawing.draw(Random(f"{self._seed}:{step}")))

    def _begin(self, spec: ModelSpec, artefact: Artefact | None) -> Subnet:
        """What `attach` is to build: the whole supernet, or the subnet of the artefact."""
        space = self.subnets(spec)
        self._fixed = None if artefact is None else tuple(artefact.facts["subnet"])
        self._drawing = space if self._fixed is None else None
        self._seed = int(torch.randint(2**62, (1,), device="cpu"))  # from the generator that draws the new modules
        return space.largest() if self._fixed is None else self._fixed
