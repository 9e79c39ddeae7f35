"""DTL: a compact history beside the backbone, fed back into its late blocks [arXiv 2312.07856]."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from karst_bench.methods.base import AdaptedModel, Artefact, Method, ModelSpec
from karst_bench.nn.block_hook import BlockHook, HookState
from karst_bench.nn.lowrank import DroppedLowRank, LowRankProduct


def steep_swish(h: Tensor, beta: float) -> Tensor:
    """phi(h) = h * sigmoid(beta h): a ReLU that is smooth at 0 for large beta                [DTL, arXiv 2312.07856]"""
    return h * (beta * h).sigmoid()


class History(BlockHook):
    """h <- h + B_i A_i x_i before block i, 0 at each stage's start; x_{i+1} += phi(h) after blocks that take feedback."""

    def __init__(self, updates: Mapping[int, nn.Module], feedback: range, beta: float) -> None:
        super().__init__()
        self.updates = nn.ModuleDict({str(i): update for i, update in updates.items()})
        self.feedback = frozenset(feedback)
        self.beta = beta

    def stage_start(self, stage: int, h: Tensor, state: HookState) -> HookState:
        return 0.0

    def before(self, i: int, h: Tensor, state: HookState) -> tuple[Tensor, HookState]:
        if str(i) in self.updates:
            state = state + self.updates[str(i)](h)
        return h, state

    def after(self, i: int, h: Tensor, state: HookState) -> tuple[Tensor, HookState]:
        return (h + steep_swish(state, self.beta) if i in self.feedback else h), state


@dataclass(kw_only=True)
class DTL(Method):
    """h <- h + B_i A_i x_i,  x_{i+1} = Block_i(x_i) + phi(h) from a fraction of the depth on      [DTL, Eq. 3-5]

    Shapes: A_i (r, d), B_i (d, r); phi(h) = h sigmoid(beta h). Feedback starts at 1/2 of the blocks on ViT (6 of 12) and
    at 7/12 on Swin (14 of 24); history is kept in the stages that hold such a block (all 12; 4..23). ViT reads out
    the mean patch token. No graph reaches below the first block that takes feedback.
    """

    needs_grid: ClassVar[bool] = True
    r: dict[str, int]
    beta: float
    feedback_from: dict[str, float]

    def attach(self, model: AdaptedModel, artefact: Artefact | None) -> None:
        spec = model.spec
        self._put(model, History(self._updates(spec), self._feedback(spec), self.beta))

    def expected_params(self, spec: ModelSpec) -> int:
        return sum(2 * self.r[spec.family] * spec.widths[i] for i in self._history(spec))

    def _put(self, model: AdaptedModel, hook: BlockHook) -> None:
        model.block_hook(hook)
        if model.spec.family == "vit":
            model.readout("mean_patch")

    def _updates(self, spec: ModelSpec) -> dict[int, nn.Module]:
        r, d = self.r[spec.family], spec.widths
        return {i: DroppedLowRank(LowRankProduct(d[i], d[i], r=r, s=1.0)) for i in self._history(spec)}

    def _feedback(self, spec: ModelSpec) -> range:
        return range(round(self.feedback_from[spec.family] * spec.depth), spec.depth)

    def _history(self, spec: ModelSpec) -> list[int]:
        fed = {spec.stages[i] for i in self._feedback(spec)}
        return [i for i, stage in enumerate(spec.stages) if stage in fed]
