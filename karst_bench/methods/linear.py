"""Linear probe: the head alone."""

from dataclasses import dataclass
from typing import ClassVar

from karst_bench.methods.base import AdaptedModel, Artefact, Method, ModelSpec


@dataclass(kw_only=True)
class Linear(Method):
    """y = W_h z + b_h on frozen features z: nothing but the classifier trains, the backbone runs without drop-path."""

    backbone_mode: ClassVar[str] = "eval"

    def attach(self, model: AdaptedModel, artefact: Artefact | None) -> None:
        pass

    def expected_params(self, spec: ModelSpec) -> int:
        return 0
