"""DTL: a compact history beside the trunk, fed back into its late blocks [arXiv 2312.07856]."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from karst_bench.methods.base import Artefact, Graft, Method, View
from karst_bench.ops.lowrank import DroppedLowRank, LowRankChange
from karst_bench.ops.phi import steep_swish
from karst_bench.ops.walker import Carry, Walker


class History(Walker):
    """h <- h + B_i A_i x_i before block i, 0 at each stage's start; x_{i+1} += phi(h) after blocks that take feedback."""

    def __init__(self, updates: Mapping[int, nn.Module], feedback: range, beta: float) -> None:
        super().__init__()
        self.updates = nn.ModuleDict({str(i): update for i, update in updates.items()})
        self.feedback = frozenset(feedback)
        self.beta = beta

    def stage_start(self, stage: int, h: Tensor, carry: Carry) -> Carry:
        return 0.0

    def before(self, i: int, h: Tensor, carry: Carry) -> tuple[Tensor, Carry]:
        if str(i) in self.updates:
            carry = carry + self.updates[str(i)](h)
        return h, carry

    def after(self, i: int, h: Tensor, carry: Carry) -> tuple[Tensor, Carry]:
        return (h + steep_swish(carry, self.beta) if i in self.feedback else h), carry


@dataclass(kw_only=True)
class DTL(Method):
    """h <- h + B_i A_i x_i,  x_{i+1} = Block_i(x_i) + phi(h) from a fraction of the depth on      [DTL, Eq. 3-5]

    Shapes: A_i (r, d), B_i (d, r); phi(h) = h sigmoid(beta h). Feedback starts at 1/2 of the blocks on ViT (6 of 12) and
    at 7/12 on Swin (14 of 24); history is kept in the stages that hold such a block (all 12; 4..23). ViT reads out
    the mean patch token. No graph reaches below the first block that takes feedback.
    """

    label: ClassVar[str] = "DTL"
    paper: ClassVar[str] = "2312.07856"
    needs_grid: ClassVar[bool] = True
    r: dict[str, int]
    beta: float
    feedback_from: dict[str, float]

    def attach(self, graft: Graft, artefact: Artefact | None) -> None:
        view = graft.view
        self._put(graft, History(self._updates(view), self._feedback(view), self.beta))

    def expected_params(self, view: View) -> int:
        return sum(2 * self.r[view.family] * view.widths[i] for i in self._history(view))

    def _put(self, graft: Graft, walker: Walker) -> None:
        graft.walk(walker)
        if graft.view.family == "vit":
            graft.readout("mean_patch")

    def _updates(self, view: View) -> dict[int, nn.Module]:
        r, d = self.r[view.family], view.widths
        return {i: DroppedLowRank(LowRankChange(d[i], d[i], r=r, s=1.0)) for i in self._history(view)}

    def _feedback(self, view: View) -> range:
        return range(round(self.feedback_from[view.family] * view.depth), view.depth)

    def _history(self, view: View) -> list[int]:
        fed = {view.stages[i] for i in self._feedback(view)}
        return [i for i, stage in enumerate(view.stages) if stage in fed]
