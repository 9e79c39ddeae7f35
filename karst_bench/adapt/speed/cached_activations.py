"""Taps: what walkers read beside a frozen backbone, computed once where nothing but they and the read-out train."""

from collections.abc import Iterator
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from karst_bench.adapt import adapted_model
from karst_bench.adapt.block_hooks import BlockHooks, HookedBlock
from karst_bench.adapt.speed.frozen_features import is_random

READ_OUT = ("norm", "attn_pool", "fc_norm", "head_drop", "head")  # timm's names of what follows the blocks


class CachedActivations(nn.Module):
    """Images (B, 3, H, W) -> all that the walkers read, a row an image: (B, sum of the taps' sizes).

    The taps are the input of each stage's first block and every block's output: 13 of 197 x 768 values on ViT-B/16.
    """

    net: Any
    block_hook: BlockHooks

    def __init__(self, net: nn.Module, block_hook: BlockHooks) -> None:
        super().__init__()
        self.net = net
        object.__setattr__(self, "block_hook", block_hook)  # registered once, in the model
        self.shapes: list[torch.Size] = []

    def forward(self, x: Tensor) -> Tensor:
        taps: list[Tensor] = []
        self.block_hook.recorded = taps
        try:
            self.net.forward_features(x)
        finally:
            self.block_hook.recorded = None
        self.shapes = [tap.shape[1:] for tap in taps]
        return torch.cat([tap.flatten(1) for tap in taps], dim=1)

    def unpacked(self, rows: Tensor) -> Iterator[Tensor]:
        """The taps of such rows, in their own shapes."""
        parts = rows.split([prod(shape) for shape in self.shapes], dim=1)
        return (part.unflatten(1, shape) for part, shape in zip(parts, self.shapes, strict=True))


class BesideCachedActivations(nn.Module):
    """The model with its backbone's arithmetic replaced by taps: (B, sum of sizes) -> logits (B, classes).

    It holds the very children of the model, under the same names.
    """

    net: Any
    taps: CachedActivations
    block_hooks: list[HookedBlock]

    def __init__(self, net: nn.Module, taps: CachedActivations) -> None:
        super().__init__()
        self._modules = net._modules
        object.__setattr__(self, "net", net)  # around the children, which are the model's own
        object.__setattr__(self, "taps", taps)
        self.block_hooks = [module for module in net.modules() if isinstance(module, HookedBlock)]

    def forward(self, rows: Tensor) -> Tensor:
        recorded = self.taps.unpacked(rows)
        h = rows
        for block in self.block_hooks:
            h = block.replay(h, recorded)
        logits: Tensor = self.net.forward_head(self.net.norm(h))
        return logits


def split_cached_activations(net: nn.Module, *, backbone_mode: str) -> tuple[CachedActivations, BesideCachedActivations] | None:
    """(frozen backbone, what trains beside it) sharing the model's modules, or None where taps cannot stand for images.

    They can where a method walks beside a frozen backbone, every trained parameter belongs to a walker, the final norm or
    the head, and nothing random runs in the backbone: trunk_mode is "eval", or it has neither dropout nor drop-path.
    """
    model = adapted_model(net)
    block_hook = model.block_hooks
    if block_hook is None or not block_hook.frozen or any(hook.uses_mid for hook in block_hook.hooks):
        return None
    beside = {module for part in (model.root, *(getattr(net, name, None) for name in READ_OUT)) if isinstance(part, nn.Module)
              for module in part.modules()}  # fmt: skip
    own = {id(p) for module in beside for p in module.parameters(recurse=False)}
    if any(p.requires_grad and id(p) not in own for p in net.parameters()):
        return None
    if backbone_mode != "eval" and any(is_random(module) for module in net.modules() if module not in beside):
        return None
    taps = CachedActivations(net, block_hook)
    return taps, BesideCachedActivations(net, taps)
