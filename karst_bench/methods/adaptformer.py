"""AdaptFormer: a bottleneck beside every MLP [arXiv 2205.13535]."""

from dataclasses import dataclass

from karst_bench.methods.base import AdaptedModel, Artefact, Method, ModelSpec
from karst_bench.nn.bottleneck import Bottleneck


@dataclass(kw_only=True)
class AdaptFormer(Method):
    """x <- x + DropPath(MLP(LN x)) + s (W_u drop(ReLU(W_d x + b_d)) + b_u)               [AdaptFormer, Eq. 2-3]

    x is the residual stream without LayerNorm; drop-path does not cover the adapter. Shapes: W_d (h, d), W_u (d, h).
    """

    h: int
    s: float
    dropout: float

    def attach(self, model: AdaptedModel, artefact: Artefact | None) -> None:
        for block, width in enumerate(model.spec.widths):
            adapter = Bottleneck(width, h=self.h, s=self.s, act="relu", dropout=self.dropout)
            model.residual(block, "mlp", adapter, reads="block", position="after_drop_path")

    def expected_params(self, spec: ModelSpec) -> int:
        return sum(2 * width * self.h + self.h + width for width in spec.widths)
