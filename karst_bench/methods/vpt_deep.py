"""VPT-deep: fresh prompts at every block [arXiv 2203.12119]."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from karst_bench.methods.base import Artefact, Graft, Method, View
from karst_bench.ops.prompts import Prompts, insert_after, remove_after
from karst_bench.ops.walker import Carry, Walker


class DeepPrompts(Walker):
    """[cls; P_i; patches] at the entry of block i; the prompts that leave block i - 1 are replaced."""

    def __init__(self, prompts: list[Prompts], prefix: int) -> None:
        super().__init__()
        self.prompts = nn.ModuleList(prompts)
        self.prefix = prefix
        self.p = len(prompts[0].tokens)

    def before(self, i: int, h: Tensor, carry: Carry) -> tuple[Tensor, Carry]:
        tokens = self.prompts[i]()
        if i > 0:
            h = remove_after(h, len(tokens), self.prefix)
        return insert_after(h, tokens, self.prefix), carry

    def finish(self, h: Tensor, carry: Carry) -> Tensor:
        return remove_after(h, self.p, self.prefix)


@dataclass(kw_only=True)
class VPTDeep(Method):
    """[cls; P_i; x] -> Block_i -> [cls; _; x],  P_i (p, d) for every block                  [VPT, Eq. 5]

    On Swin the prompts join every window of their block, without a position bias, and the head pools the patches alone.
    The encoder runs without drop-path. Longer sequences cannot be merged.
    """

    label: ClassVar[str] = "VPT-deep"
    paper: ClassVar[str] = "2203.12119"
    changes_tokens: ClassVar[bool] = True
    identity_at_init: ClassVar[bool] = False
    trunk_mode: ClassVar[str] = "eval"
    p: int
    dropout: float

    def attach(self, graft: Graft, artefact: Artefact | None) -> None:
        view = graft.view
        prompts = [Prompts(self.p, width, patch=view.patch, embed_dim=view.embed_dim, dropout=self.dropout)
                   for width in view.widths]  # fmt: skip
        if view.family == "vit":
            graft.walk(DeepPrompts(prompts, view.prefix_tokens))
        else:
            for block, tokens in enumerate(prompts):
                graft.window_tokens(block, tokens)

    def expected_params(self, view: View) -> int:
        return self.p * sum(view.widths)
