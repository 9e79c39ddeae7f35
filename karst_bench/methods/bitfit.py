"""BitFit: the biases that are there already [arXiv 2106.10199]."""

from dataclasses import dataclass

from karst_bench.methods.base import AdaptedModel, Artefact, Method, ModelSpec


@dataclass(kw_only=True)
class BitFit(Method):
    """b <- b + db for every bias of the backbone; `rel_pos_bias` adds Swin's relative position tables.

    Nothing is added and nothing is left to merge. Biases are vectors, so they are not decayed towards 0.
    """

    rel_pos_bias: bool

    def attach(self, model: AdaptedModel, artefact: Artefact | None) -> None:
        model.unfreeze("*.bias")
        if self.rel_pos_bias and model.spec.family == "swin":
            model.unfreeze("*.relative_position_bias_table")

    def expected_params(self, spec: ModelSpec) -> int:
        tables = self.rel_pos_bias and spec.family == "swin"
        return sum(size for name, size in spec.names
                   if name.endswith(".bias") or (tables and name.endswith(".relative_position_bias_table")))  # fmt: skip
