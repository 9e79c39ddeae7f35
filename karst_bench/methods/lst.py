"""LST: a narrow network beside a frozen backbone, which no gradient enters [arXiv 2206.06522]."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from karst_bench.methods.base import AdaptedModel, Artefact, Method, ModelSpec
from karst_bench.nn.block_hook import BlockHook, HookState

TEMPERATURE = 0.1  # of the gates


class SideNetwork(BlockHook):
    """s = D_0 f_0; after block l: s <- Side_l(m_l s + (1 - m_l) D_l f_l), m_l = sigmoid(g_l / T); last U LN(s)."""

    def __init__(self, blocks: Sequence[nn.Module], mergings: Mapping[int, nn.Module], widths: Sequence[int], r: int) -> None:
        super().__init__()
        last = widths[-1] // r
        self.first = nn.Linear(widths[0], widths[0] // r)
        self.downs = nn.ModuleList(nn.Linear(d, d // r) for d in widths)
        self.blocks = nn.ModuleList(blocks)
        self.mergings = nn.ModuleDict({str(stage): merging for stage, merging in mergings.items()})
        self.gates = nn.Parameter(torch.zeros(len(widths)))
        self.norm = nn.LayerNorm(last)
        self.up = nn.Linear(last, widths[-1])

    def start(self, h: Tensor) -> HookState:
        return self.first(h)

    def stage_start(self, stage: int, h: Tensor, state: HookState) -> HookState:
        return self.mergings[str(stage)](state) if str(stage) in self.mergings else state

    def after(self, i: int, h: Tensor, state: HookState) -> tuple[Tensor, HookState]:
        m = torch.sigmoid(self.gates[i] / TEMPERATURE)
        return h, self.blocks[i](m * state + (1 - m) * self.downs[i](h))

    def finish(self, h: Tensor, state: HookState) -> Tensor:
        y: Tensor = self.up(self.norm(state))
        return y


@dataclass(kw_only=True)
class LST(Method):
    """s <- Side_l(m_l s + (1 - m_l) D_l f_l), m_l = sigmoid(g_l / 0.1); the head reads U LN(s)       [LST, re-implementation]

    f_l: the output of the frozen block l, f_0 the embedded tokens, s = D_0 f_0 before. Side_l is a block like block l at
    1/r of its width, cut out of it by magnitude (`pruned`) or drawn. Shapes: D_l (d/r, d), U (d, d/r), g_l scalar. On
    Swin a side network has the backbone's stages and windows, with patch mergings of its own. The backbone's final norm
    is unused. No graph goes through the backbone, so its activations can be stored.
    """

    r: int
    pruned: bool

    identity_at_init: ClassVar[bool] = False  # the head reads the side network alone
    backbone_mode: ClassVar[str] = "eval"

    def attach(self, model: AdaptedModel, artefact: Artefact | None) -> None:
        blocks, mergings = model.narrowed(self.r, pruned=self.pruned)
        model.block_hook(SideNetwork(blocks, mergings, model.spec.widths, self.r))
        model.frozen_backbone()
        model.readout("own", norm=nn.Identity())

    def expected_params(self, spec: ModelSpec) -> int:
        r = self.r
        linears = spec.having("qkv", "proj", "fc1", "fc2", "reduction")
        side = sum(site.d_out // r * (site.d_in // r + site.bias) for site in linears)
        side += sum(2 * site.d_out // r for site in spec.having("norm1", "norm2", "reduction_norm"))
        side += sum(size for name, size in spec.names if name.endswith("relative_position_bias_table"))
        side += sum(size // r for name, size in spec.names if name.endswith((".ls1.gamma", ".ls2.gamma")))
        ladders = sum(d // r * (d + 1) for d in (spec.widths[0], *spec.widths))
        last = spec.widths[-1]
        return side + ladders + spec.depth + 2 * last // r + last * (last // r + 1)
