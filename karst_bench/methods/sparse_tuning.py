"""Sparse-Tuning: fewer tokens from stage to stage, and dense adapters across blocks [arXiv 2405.14700]."""

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from karst_bench.errors import MisfitError, UserError
from karst_bench.methods.base import AdaptedModel, Artefact, Method, ModelSpec
from karst_bench.nn.block_hook import BlockHook
from karst_bench.nn.dense_adapter import DenseAdapter

INITS = ("near_identity", "trunc_normal")


class Carried(NamedTuple):
    """What goes from block to block: the embedded tokens until they were added, the quarter's sum, the block's own part."""

    embedded: Tensor | None
    total: Tensor | None
    own: Tensor | None


class TokenSelection(BlockHook):
    """In the middle of a block, tokens go (at `cuts`) and its adapter reads; after it, the adapter's output is added."""

    uses_mid = True
    changes_tokens = "dropped"

    def __init__(self, adapters: list[DenseAdapter], cuts: tuple[int, ...], *, keep: float, prefix: int, embedding: bool) -> None:
        super().__init__()
        self.adapters = nn.ModuleList(adapters)
        self.cuts, self.keep, self.prefix, self.embedding = cuts, keep, prefix, embedding
        self.ends = {*(cut - 1 for cut in cuts), len(adapters) - 1}  # the last block of each quarter

    def start(self, h: Tensor) -> Carried:
        return Carried(h if self.embedding else None, None, None)

    def mid(self, i: int, h: Tensor, state: Carried, cls_attention: Tensor | None) -> tuple[Tensor, Carried]:
        if i in self.cuts and self.keep < 1:
            assert cls_attention is not None
            h = selected(h, cls_attention.mean(1), keep=self.keep, prefix=self.prefix)
        own = self.adapters[i](h)
        return h, Carried(state.embedded, own if state.total is None else state.total + own, own)

    def after(self, i: int, h: Tensor, state: Carried) -> tuple[Tensor, Carried]:
        assert state.own is not None and state.total is not None
        h = h + state.own
        if i not in self.ends:
            return h, state
        h = h + state.total
        if state.embedded is not None:
            h = h + state.embedded
        return h, Carried(None, None, None)


def selected(h: Tensor, attention: Tensor, *, keep: float, prefix: int) -> Tensor:
    """Prefix tokens, the ceil(keep n) of n others that the class token attends to most, and one token sum a_j h_j of the rest.

    Shapes: h (B, prefix + n, d), attention (B, prefix + n) -> (B, prefix + ceil(keep n) + 1, d).
    """
    patches, a = h[:, prefix:], attention[:, prefix:]
    best = a.topk(math.ceil(round(keep * int(a.shape[1]), 6)), dim=1).indices
    kept = patches.gather(1, best[..., None].expand(-1, -1, h.shape[-1]))
    rest = a.scatter(1, best, 0.0)
    fused = (rest[:, None] @ patches).to(h.dtype)
    return torch.cat([h[:, :prefix], kept, fused], dim=1)


@dataclass(kw_only=True)
class SparseTuning(Method):
    """x <- x + MLP(LN x) + DA_i(x), DA_i(x) = U2 (D3 [u; U1 u] + h0), u = D2 h0, h0 = relu(D1 x)       [re-implementation]

    In the blocks at 1/4, 1/2 and 3/4 of the depth, between attention and MLP, the share `keep` of the patch tokens that the
    class token attends to most stays; the others become one token, their sum weighted by that attention. After each
    quarter of the blocks its DA_i are added once more, after the first one the embedded tokens too (`embedding`). Shapes:
    D1 (h, d), D2 (m, h), U1 (h, m), D3 (h, m + h), U2 (d, h).
    """

    h: int
    m: int
    keep: float
    embedding: bool
    init: str

    needs_cls: ClassVar[bool] = True
    changes_tokens: ClassVar[bool] = True
    identity_at_init: ClassVar[bool] = False  # tokens go, and the embedded ones are added again

    def __post_init__(self) -> None:
        if self.init not in INITS or not 0 < self.keep <= 1:
            raise UserError(f"method.keep={self.keep}, init={self.init!r}; use keep in (0, 1] and init of {', '.join(INITS)}")

    def attach(self, model: AdaptedModel, artefact: Artefact | None) -> None:
        spec = model.spec
        if spec.depth < 2:
            raise MisfitError("the method drops tokens at quarters of the depth, but this model has one block; use a deeper one")
        cuts = tuple(dict.fromkeys(max(1, spec.depth * quarter // 4) for quarter in (1, 2, 3)))
        adapters = [DenseAdapter(d, h=self.h, m=self.m, init=self.init) for d in spec.widths]
        hook = TokenSelection(adapters, cuts, keep=self.keep, prefix=spec.prefix_tokens, embedding=self.embedding)
        model.block_hook(hook, needs_attention=cuts if self.keep < 1 else ())

    def expected_params(self, spec: ModelSpec) -> int:
        h, m = self.h, self.m
        inner = (h + 1) * m + (m + 1) * h + (m + h + 1) * h
        return sum((d + 1) * h + inner + (h + 1) * d for d in spec.widths)
