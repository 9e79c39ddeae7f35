"""Linear probe: the head alone."""

from dataclasses import dataclass
from typing import ClassVar

from karst_bench.methods.base import Artefact, Graft, Method, View


@dataclass(kw_only=True)
class Linear(Method):
    """y = W_h z + b_h on frozen features z: nothing but the classifier trains, the trunk runs without drop-path."""

    label: ClassVar[str] = "Linear"
    trunk_mode: ClassVar[str] = "eval"

    def attach(self, graft: Graft, artefact: Artefact | None) -> None:
        pass

    def expected_params(self, view: View) -> int:
        return 0
