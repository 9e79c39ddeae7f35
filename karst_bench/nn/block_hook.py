"""What a method may do from block to block: read the tokens, change them, keep a state on the way."""

from typing import Any

from torch import Tensor, nn

HookState = Any


class BlockHook(nn.Module):
    """Called around every block of a backbone; every default does nothing. Methods derive their hooks from it.

    Shapes: h is (B, T, d) on ViT and (B, H, W, d) on Swin. The state belongs to one forward pass: `start` makes it, and
    each call hands on the next one.
    """

    uses_mid = False
    changes_tokens = ""  # where tokens join while a block computes, `prefix` or `end`, or `dropped`; between blocks they are hidden
    added_prefix = 0  # how many join behind the prefix tokens

    def start(self, h: Tensor) -> HookState:
        """The state before the first block, whose input is h."""
        return None

    def stage_start(self, stage: int, h: Tensor, state: HookState) -> HookState:
        """Before the first block of each stage (a ViT is one); h is that block's input."""
        return state

    def before(self, i: int, h: Tensor, state: HookState) -> tuple[Tensor, HookState]:
        """What block i is given instead of h."""
        return h, state

    def mid(self, i: int, h: Tensor, state: HookState, cls_attention: Tensor | None) -> tuple[Tensor, HookState]:
        """Between attention and MLP, where uses_mid is set (ViT only).

        Shapes: cls_attention (B, heads, T), the class token's row, in blocks that needs_attention named.
        """
        return h, state

    def after(self, i: int, h: Tensor, state: HookState) -> tuple[Tensor, HookState]:
        """What the next block, or `finish`, is given instead of block i's output h."""
        return h, state

    def finish(self, h: Tensor, state: HookState) -> Tensor:
        """What the final norm is given instead of h."""
        return h
