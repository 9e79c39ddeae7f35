"""BitFit: the biases that are there already [arXiv 2106.10199]."""

from dataclasses import dataclass

from karst_bench.methods.base import AdaptedModel, Artefact, Method, ModelSpec

BIASES = ("bias", "q_bias", "v_bias", "mlp_bias")  # timm keeps some of a projection's apart
TABLES = ("relative_position_bias_table",)


@dataclass(kw_only=True)
class BitFit(Method):
    """b <- b + db for every bias of the backbone; `rel_pos_bias` adds Swin's relative position tables.

    Nothing is added and nothing is left to merge. Biases are vectors, so they are not decayed towards 0.
    """

    rel_pos_bias: bool

    def attach(self, model: AdaptedModel, artefact: Artefact | None) -> None:
        for name in self._names(model.spec):
            model.unfreeze(name)

    def expected_params(self, spec: ModelSpec) -> int:
        sizes = dict(spec.names)
        return sum(sizes[name] for name in self._names(spec))

    def _names(self, spec: ModelSpec) -> list[str]:
        wanted = BIASES + (TABLES if self.rel_pos_bias and spec.family == "swin" else ())
        return [name for name, _ in spec.names if name.rpartition(".")[2] in wanted]
