"""VPT-shallow: prompts at the first block that stay [arXiv 2203.12119]."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from karst_bench.methods.base import AdaptedModel, Artefact, Method, ModelSpec
from karst_bench.nn.block_hook import BlockHook, HookState
from karst_bench.nn.prompts import Prompts, insert_after, remove_after


class ShallowPrompts(BlockHook):
    """[cls; P; patches] within every block; between blocks the prompts are the state."""

    changes_tokens = "prefix"

    def __init__(self, prompts: Prompts, prefix: int) -> None:
        super().__init__()
        self.prompts = prompts
        self.prefix = prefix
        self.added_prefix = len(prompts.tokens)

    def start(self, h: Tensor) -> HookState:
        return self.prompts(h.shape[0])

    def before(self, i: int, h: Tensor, state: HookState) -> tuple[Tensor, HookState]:
        return insert_after(h, state, self.prefix), state

    def after(self, i: int, h: Tensor, state: HookState) -> tuple[Tensor, HookState]:
        end = self.prefix + self.added_prefix
        return remove_after(h, self.added_prefix, self.prefix), h[:, self.prefix : end]


@dataclass(kw_only=True)
class VPTShallow(Method):
    """[cls; P; x_0] -> Block_1 -> ... -> Block_L -> [cls; _; x_L],  P (p, d)                [VPT, arXiv 2203.12119]

    The prompts have no position embedding; dropout draws a mask for each image. The encoder runs without drop-path. Longer
    sequences cannot be merged. On Swin a prompt would have to leave every window attention as a mean over windows and survive
    patch merging: use vpt_deep there.
    """

    families: ClassVar[frozenset[str]] = frozenset({"vit"})
    changes_tokens: ClassVar[bool] = True
    identity_at_init: ClassVar[bool] = False
    backbone_mode: ClassVar[str] = "eval"
    p: int
    dropout: float

    def attach(self, model: AdaptedModel, artefact: Artefact | None) -> None:
        spec = model.spec
        prompts = Prompts(self.p, spec.embed_dim, patch=spec.patch, embed_dim=spec.embed_dim, dropout=self.dropout)
        model.block_hook(ShallowPrompts(prompts, spec.prefix_tokens))

    def expected_params(self, spec: ModelSpec) -> int:
        return self.p * spec.embed_dim
