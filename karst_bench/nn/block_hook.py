"""What a method that walks along the blocks may do."""

from typing import Any

from torch import Tensor, nn

HookState = Any


class BlockHook(nn.Module):
    """What a walking method may do; every default does nothing. h is (B, T, d) on ViT and (B, H, W, d) on Swin.

    The carry belongs to one forward pass: `start` makes it, each call may hand on another.
    """

    uses_mid = False

    def start(self, h: Tensor) -> HookState:
        return None

    def stage_start(self, stage: int, h: Tensor, state: HookState) -> HookState:
        return state

    def before(self, i: int, h: Tensor, state: HookState) -> tuple[Tensor, HookState]:
        return h, state

    def mid(self, i: int, h: Tensor, state: HookState, cls_attention: Tensor | None) -> tuple[Tensor, HookState]:
        """Between attention and MLP (ViT only); cls_attention (B, heads, T) where the method needs_attention."""
        return h, state

    def after(self, i: int, h: Tensor, state: HookState) -> tuple[Tensor, HookState]:
        return h, state

    def finish(self, h: Tensor, state: HookState) -> Tensor:
        return h
