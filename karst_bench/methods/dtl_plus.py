"""DTL+: DTL whose feedback is spread over neighbouring patches [arXiv 2312.07856]."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from karst_bench.methods.base import AdaptedModel, Artefact, ModelSpec
from karst_bench.methods.dtl import DTL, History, steep_swish
from karst_bench.nn.block_hook import HookState
from karst_bench.nn.token_grid import over_patches


class SpreadHistory(History):
    """x_{i+1} += Conv(phi(h)), one depthwise convolution for each stage that takes feedback; prefix tokens pass it by."""

    def __init__(
        self, updates: dict[int, nn.Module], feedback: range, beta: float, *, convs: dict[int, nn.Conv2d], spec: ModelSpec,
        grid: Callable[[], tuple[int, int]],
    ) -> None:  # fmt: skip
        super().__init__(updates, feedback, beta)
        self.convs = nn.ModuleDict({str(stage): conv for stage, conv in convs.items()})
        self.stages, self.prefix, self.grid = spec.stages, spec.prefix_tokens, grid

    def after(self, i: int, h: Tensor, state: HookState) -> tuple[Tensor, HookState]:
        if i not in self.feedback:
            return h, state
        conv = self.convs[str(self.stages[i])]
        spread = over_patches(steep_swish(state, self.beta), conv, nn.Identity(), prefix=self.prefix, grid=self.grid)
        return h + spread, state


@dataclass(kw_only=True)
class DTLPlus(DTL):
    """h <- h + B_i A_i x_i,  x_{i+1} = Block_i(x_i) + Conv_{k x k}(phi(h))                       [DTL, Eq. 3-6]

    As DTL; Conv is depthwise, without bias, keeps the map's size and is one for all blocks of a stage. The class token
    passes it by. The published Swin code allocates one for each of the four stages and trains two; only those are here.
    """

    k: dict[str, int]

    def attach(self, model: AdaptedModel, artefact: Artefact | None) -> None:
        spec, k = model.spec, self.k[model.spec.family]
        widths = self._widths(spec)
        convs = {stage: nn.Conv2d(d, d, k, padding="same", groups=d, bias=False) for stage, d in widths.items()}
        hook = SpreadHistory(
            self._updates(spec), self._feedback(spec), self.beta, convs=convs, spec=spec, grid=model.grid(0)
        )
        self._put(model, hook)

    def expected_params(self, spec: ModelSpec) -> int:
        return super().expected_params(spec) + self.k[spec.family] ** 2 * sum(self._widths(spec).values())

    def _widths(self, spec: ModelSpec) -> dict[int, int]:
        """The width of each stage that takes feedback."""
        return {spec.stages[i]: spec.widths[i] for i in self._feedback(spec)}
