"""Sequential adapters: a bottleneck on a sub-layer's output [Houlsby arXiv 1902.00751, Pfeiffer 2005.00247, Adapter+
2406.06820]."""

from dataclasses import dataclass
from typing import ClassVar

from karst_bench.errors import UserError
from karst_bench.methods.base import AdaptedModel, Artefact, Method, ModelSpec
from karst_bench.nn.bottleneck import ACTIVATIONS, Bottleneck, ScaledBottleneck


@dataclass(kw_only=True)
class Adapter(Method):
    """u <- u + W_u drop(act(W_d u + b_d)) + b_u on the output u of MLP (Pfeiffer), or of attention and MLP (Houlsby)

    Shapes: W_d (h, d), W_u (d, h). position: `inside`, before drop-path, or `after_drop_path`. Starts at the identity:
    W_u = 0. (Zeroing W_d too, as one code base does, would leave only b_u a gradient in the first step.)
    """

    init: ClassVar[str] = "near_identity"
    h: int
    act: str
    dropout: float
    halves: list[str]
    position: str

    def __post_init__(self) -> None:
        if self.act not in ACTIVATIONS:
            raise UserError(f"method.act={self.act!r} is unknown; use one of {', '.join(ACTIVATIONS)}")

    def attach(self, model: AdaptedModel, artefact: Artefact | None) -> None:
        for block, width in enumerate(model.spec.widths):
            for half in self.halves:
                adapter = Bottleneck(width, h=self.h, s=1.0, act=self.act, dropout=self.dropout, init=self.init)
                model.residual(block, half, adapter, reads="out", position=self.position)

    def expected_params(self, spec: ModelSpec) -> int:
        return len(self.halves) * sum(2 * width * self.h + self.h + width for width in spec.widths)


@dataclass(kw_only=True)
class AdapterNOAH(Adapter):
    """u <- u + W_u drop(QuickGELU(W_d u + b_d)) + b_u,  u = DropPath(MLP(LN x))             [NOAH, arXiv 2206.04673]

    The adapter of NOAH's search space and of the paper's few-shot curves. Both weights are drawn trunc-normal 0.02, as
    that code initialises every linear layer once more after building it: the start is not the identity.
    """

    identity_at_init: ClassVar[bool] = False
    init: ClassVar[str] = "trunc_normal"


@dataclass(kw_only=True)
class AdapterPlus(Method):
    """x <- x + g * DropPath(W_u GELU(W_d x + b_d) + b_u),  x the residual stream after the MLP was added  [Adapter+, Sec. 3]

    Shapes: W_d (h, d), W_u (d, h), g (d). The adapter's drop-path is its own, at one rate for all blocks, beside the trunk's
    ramp (recipe.drop_path). Weights start with deviation 0.01, cut at two deviations: near the identity.
    """

    identity_at_init: ClassVar[bool] = False
    h: int
    dropout: float
    drop_path: float

    def attach(self, model: AdaptedModel, artefact: Artefact | None) -> None:
        for block, width in enumerate(model.spec.widths):
            adapter = ScaledBottleneck(width, h=self.h, act="gelu", dropout=self.dropout, init="houlsby",
                                       drop_path=self.drop_path)  # fmt: skip
            model.residual(block, "mlp", adapter, reads="sum", position="after_drop_path")

    def expected_params(self, spec: ModelSpec) -> int:
        return sum(2 * width * self.h + self.h + 2 * width for width in spec.widths)
