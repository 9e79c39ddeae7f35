"""Taps: what walkers read beside a frozen trunk, computed once where nothing but they and the read-out train."""

from collections.abc import Iterator
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from karst_bench.attach import graft_of
from karst_bench.attach.features import is_random
from karst_bench.attach.walk import Walk, WalkedBlock

READ_OUT = ("norm", "attn_pool", "fc_norm", "head_drop", "head")  # timm's names of what follows the blocks


class Taps(nn.Module):
    """Images (B, 3, H, W) -> all that the walkers read, a row an image: (B, sum of the taps' sizes).

    The taps are the input of each stage's first block and every block's output: 13 of 197 x 768 values on ViT-B/16.
    """

    net: Any
    walk: Walk

    def __init__(self, net: nn.Module, walk: Walk) -> None:
        super().__init__()
        self.net = net
        object.__setattr__(self, "walk", walk)  # registered once, in the model
        self.shapes: list[torch.Size] = []

    def forward(self, x: Tensor) -> Tensor:
        taps: list[Tensor] = []
        self.walk.recorded = taps
        try:
            self.net.forward_features(x)
        finally:
            self.walk.recorded = None
        self.shapes = [tap.shape[1:] for tap in taps]
        return torch.cat([tap.flatten(1) for tap in taps], dim=1)

    def unpacked(self, rows: Tensor) -> Iterator[Tensor]:
        """The taps of such rows, in their own shapes."""
        parts = rows.split([prod(shape) for shape in self.shapes], dim=1)
        return (part.unflatten(1, shape) for part, shape in zip(parts, self.shapes, strict=True))


class BesideTaps(nn.Module):
    """The model with its trunk's arithmetic replaced by taps: (B, sum of sizes) -> logits (B, classes).

    It holds the very children of the model, under the same names.
    """

    net: Any
    taps: Taps
    walked: list[WalkedBlock]

    def __init__(self, net: nn.Module, taps: Taps) -> None:
        super().__init__()
        self._modules = net._modules
        object.__setattr__(self, "net", net)  # around the children, which are the model's own
        object.__setattr__(self, "taps", taps)
        self.walked = [module for module in net.modules() if isinstance(module, WalkedBlock)]

    def forward(self, rows: Tensor) -> Tensor:
        recorded = self.taps.unpacked(rows)
        h = rows
        for block in self.walked:
            h = block.replay(h, recorded)
        logits: Tensor = self.net.forward_head(self.net.norm(h))
        return logits


def split_taps(net: nn.Module, *, trunk_mode: str) -> tuple[Taps, BesideTaps] | None:
    """(frozen trunk, what trains beside it) sharing the model's modules, or None where taps cannot stand for images.

    They can where a method walks beside a frozen trunk, every trained parameter belongs to a walker, the final norm or
    the head, and nothing random runs in the trunk: trunk_mode is "eval", or it has neither dropout nor drop-path.
    """
    graft = graft_of(net)
    walk = graft.walked
    if walk is None or not walk.frozen or any(walker.uses_mid for walker in walk.walkers):
        return None
    beside = {module for part in (graft.root, *(getattr(net, name, None) for name in READ_OUT)) if isinstance(part, nn.Module)
              for module in part.modules()}  # fmt: skip
    own = {id(p) for module in beside for p in module.parameters(recurse=False)}
    if any(p.requires_grad and id(p) not in own for p in net.parameters()):
        return None
    if trunk_mode != "eval" and any(is_random(module) for module in net.modules() if module not in beside):
        return None
    taps = Taps(net, walk)
    return taps, BesideTaps(net, taps)
