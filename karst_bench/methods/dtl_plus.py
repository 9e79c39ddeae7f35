"""DTL+: DTL whose feedback is spread over neighbouring patches [arXiv 2312.07856]."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from karst_bench.methods.base import Artefact, Graft, View
from karst_bench.methods.dtl import DTL, History
from karst_bench.ops.grid import over_patches
from karst_bench.ops.phi import steep_swish
from karst_bench.ops.walker import Carry


class SpreadHistory(History):
    """x_{i+1} += Conv(phi(h)), one depthwise convolution for each stage that takes feedback; prefix tokens pass it by."""

    def __init__(
        self, updates: dict[int, nn.Module], feedback: range, beta: float, *, convs: dict[int, nn.Conv2d], view: View
    ) -> None:
        super().__init__(updates, feedback, beta)
        self.convs = nn.ModuleDict({str(stage): conv for stage, conv in convs.items()})
        self.stages, self.prefix, self.grid = view.stages, view.prefix_tokens, view.grid

    def after(self, i: int, h: Tensor, carry: Carry) -> tuple[Tensor, Carry]:
        if i not in self.feedback:
            return h, carry
        conv = self.convs[str(self.stages[i])]
        spread = over_patches(steep_swish(carry, self.beta), conv, nn.Identity(), prefix=self.prefix, grid=self.grid)
        return h + spread, carry


@dataclass(kw_only=True)
class DTLPlus(DTL):
    """h <- h + B_i A_i x_i,  x_{i+1} = Block_i(x_i) + Conv_{k x k}(phi(h))                       [DTL, Eq. 3-6]

    As DTL; Conv is depthwise, without bias, keeps the map's size and is one for all blocks of a stage. The class token
    passes it by. The published Swin code allocates one for each of the four stages and trains two; only those are here.
    """

    label: ClassVar[str] = "DTL+"
    k: dict[str, int]

    def attach(self, graft: Graft, artefact: Artefact | None) -> None:
        view, k = graft.view, self.k[graft.view.family]
        widths = self._widths(view)
        convs = {stage: nn.Conv2d(d, d, k, padding="same", groups=d, bias=False) for stage, d in widths.items()}
        walker = SpreadHistory(self._updates(view), self._feedback(view), self.beta, convs=convs, view=view)
        self._put(graft, walker)

    def expected_params(self, view: View) -> int:
        return super().expected_params(view) + self.k[view.family] ** 2 * sum(self._widths(view).values())

    def _widths(self, view: View) -> dict[int, int]:
        """The width of each stage that takes feedback."""
        return {view.stages[i]: view.widths[i] for i in self._feedback(view)}
