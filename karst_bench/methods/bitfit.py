"""BitFit: the biases that are there already [arXiv 2106.10199]."""

from dataclasses import dataclass
from typing import ClassVar

from karst_bench.methods.base import Artefact, Graft, Method, View


@dataclass(kw_only=True)
class BitFit(Method):
    """b <- b + db for every bias of the trunk; `rel_pos_bias` adds Swin's relative position tables.

    Nothing is added and nothing is left to merge. Biases are vectors, so they are not decayed towards 0.
    """

    label: ClassVar[str] = "BitFit"
    paper: ClassVar[str] = "2106.10199"
    rel_pos_bias: bool

    def attach(self, graft: Graft, artefact: Artefact | None) -> None:
        graft.unfreeze("*.bias")
        if self.rel_pos_bias and graft.view.family == "swin":
            graft.unfreeze("*.relative_position_bias_table")

    def expected_params(self, view: View) -> int:
        tables = self.rel_pos_bias and view.family == "swin"
        return sum(size for name, size in view.names
                   if name.endswith(".bias") or (tables and name.endswith(".relative_position_bias_table")))  # fmt: skip
