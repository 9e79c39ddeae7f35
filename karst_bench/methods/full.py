"""Full fine-tuning: every parameter of the backbone."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from karst_bench.methods.base import AdaptedModel, Artefact, Method, ModelSpec


@dataclass(kw_only=True)
class Full(Method):
    """theta <- theta + dtheta for every theta of the backbone; the upper reference in parameters, not in accuracy.

    Weight decay leaves out the position embedding and the class token, whose values are no weights.
    """

    composable: ClassVar[bool] = False

    def attach(self, model: AdaptedModel, artefact: Artefact | None) -> None:
        model.unfreeze("*")

    def expected_params(self, spec: ModelSpec) -> int:
        return spec.backbone_params

    def param_groups(self, named: list[tuple[str, nn.Parameter]]) -> list[dict[str, Any]]:
        tables = ("pos_embed", "cls_token", "reg_token", "relative_position_bias_table")
        flat = [p for name, p in named if name.rpartition(".")[2] in tables]
        return [{"params": flat, "weight_decay": 0.0}] if flat else []
