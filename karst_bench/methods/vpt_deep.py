"""VPT-deep: fresh prompts at every block [arXiv 2203.12119]."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from karst_bench.methods.base import AdaptedModel, Artefact, Method, ModelSpec
from karst_bench.nn.block_hook import BlockHook, HookState
from karst_bench.nn.prompts import Prompts, insert_after, remove_after


class DeepPrompts(BlockHook):
    """[cls; P_i; patches] within block i; the prompts that leave it are dropped, as the next block brings its own."""

    changes_tokens = "prefix"

    def __init__(self, prompts: list[Prompts], prefix: int) -> None:
        super().__init__()
        self.prompts = nn.ModuleList(prompts)
        self.prefix = prefix
        self.added_prefix = len(prompts[0].tokens)

    def before(self, i: int, h: Tensor, state: HookState) -> tuple[Tensor, HookState]:
        return insert_after(h, self.prompts[i](h.shape[0]), self.prefix), state

    def after(self, i: int, h: Tensor, state: HookState) -> tuple[Tensor, HookState]:
        return remove_after(h, self.added_prefix, self.prefix), state


@dataclass(kw_only=True)
class VPTDeep(Method):
    """[cls; P_i; x] -> Block_i -> [cls; _; x],  P_i (p, d) for every block                  [VPT, arXiv 2203.12119]

    On Swin the prompts join every window of their block, without a position bias, and the last block's prompts, which leave
    it as tokens, are pooled with the patches. Dropout draws a mask for each image; on Swin in the first block alone, and one
    mask a batch in the others, as the published code does. (There images get one another's masks in the first block, a slip
    of its order of windows that is not rebuilt.) The encoder runs without drop-path. Longer sequences cannot be merged.
    """

    changes_tokens: ClassVar[bool] = True
    identity_at_init: ClassVar[bool] = False
    backbone_mode: ClassVar[str] = "eval"
    p: int
    dropout: float

    def attach(self, model: AdaptedModel, artefact: Artefact | None) -> None:
        spec = model.spec
        prompts = [Prompts(self.p, width, patch=spec.patch, embed_dim=spec.embed_dim, dropout=self.dropout)
                   for width in spec.widths]  # fmt: skip
        if spec.family == "vit":
            model.block_hook(DeepPrompts(prompts, spec.prefix_tokens))
        else:
            for block, tokens in enumerate(prompts):
                model.window_tokens(block, tokens, per_image=block == 0, pooled=block == spec.depth - 1)

    def expected_params(self, spec: ModelSpec) -> int:
        return self.p * sum(spec.widths)
