"""What a method that walks along the blocks may do."""

from typing import Any

from torch import Tensor, nn

Carry = Any


class Walker(nn.Module):
    """What a walking method may do; every default does nothing. h is (B, T, d) on ViT and (B, H, W, d) on Swin.

    The carry belongs to one forward pass: `start` makes it, each call may hand on another.
    """

    uses_mid = False

    def start(self, h: Tensor) -> Carry:
        return None

    def stage_start(self, stage: int, h: Tensor, carry: Carry) -> Carry:
        return carry

    def before(self, i: int, h: Tensor, carry: Carry) -> tuple[Tensor, Carry]:
        return h, carry

    def mid(self, i: int, h: Tensor, carry: Carry, cls_attention: Tensor | None) -> tuple[Tensor, Carry]:
        """Between attention and MLP (ViT only); cls_attention (B, heads, T) where the method needs_attention."""
        return h, carry

    def after(self, i: int, h: Tensor, carry: Carry) -> tuple[Tensor, Carry]:
        return h, carry

    def finish(self, h: Tensor, carry: Carry) -> Tensor:
        return h
