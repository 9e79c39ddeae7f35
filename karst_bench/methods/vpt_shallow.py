"""VPT-shallow: prompts at the first block that stay [arXiv 2203.12119]."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from karst_bench.methods.base import Artefact, Graft, Method, View
from karst_bench.ops.prompts import Prompts, insert_after, remove_after
from karst_bench.ops.walker import Carry, Walker


class ShallowPrompts(Walker):
    """[cls; P; patches] from the entry of the first block to the exit of the last."""

    def __init__(self, prompts: Prompts, prefix: int) -> None:
        super().__init__()
        self.prompts = prompts
        self.prefix = prefix

    def before(self, i: int, h: Tensor, carry: Carry) -> tuple[Tensor, Carry]:
        return (insert_after(h, self.prompts(), self.prefix) if i == 0 else h), carry

    def finish(self, h: Tensor, carry: Carry) -> Tensor:
        return remove_after(h, len(self.prompts.tokens), self.prefix)


@dataclass(kw_only=True)
class VPTShallow(Method):
    """[cls; P; x_0] -> Block_1 -> ... -> Block_L -> [cls; _; x_L],  P (p, d)                [VPT, Eq. 4]

    The prompts have no position embedding. The encoder runs without drop-path. Longer sequences cannot be merged. On
    Swin a prompt would have to leave every window attention as a mean over windows and survive patch merging: use
    vpt_deep there.
    """

    label: ClassVar[str] = "VPT-shallow"
    paper: ClassVar[str] = "2203.12119"
    families: ClassVar[frozenset[str]] = frozenset({"vit"})
    changes_tokens: ClassVar[bool] = True
    identity_at_init: ClassVar[bool] = False
    trunk_mode: ClassVar[str] = "eval"
    p: int
    dropout: float

    def attach(self, graft: Graft, artefact: Artefact | None) -> None:
        view = graft.view
        prompts = Prompts(self.p, view.embed_dim, patch=view.patch, embed_dim=view.embed_dim, dropout=self.dropout)
        graft.walk(ShallowPrompts(prompts, view.prefix_tokens))

    def expected_params(self, view: View) -> int:
        return self.p * view.embed_dim
