"""What block hooks read beside a frozen backbone, computed once where nothing but they and the read-out train."""

from collections.abc import Iterator
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from karst_bench.adapt.attach import adapted_model
from karst_bench.adapt.block_hooks import BlockHooks, HookedBlock
from karst_bench.adapt.intermediates import own_features
from karst_bench.adapt.speed.frozen_features import is_random
from karst_bench.nn.reference import Reference

READ_OUT = ("norm", "attn_pool", "fc_norm", "head_drop", "head", "head_dist")  # timm's names of what follows the blocks


class CachedActivations(nn.Module):
    """Images (B, 3, H, W) -> all that the hooks read, a row an image: (B, sum of the activations' sizes).

    These are the input of each stage's first block and every block's output: 13 of 197 x 768 values on ViT-B/16.
    """

    net: Any

    def __init__(self, net: nn.Module, hooks: BlockHooks) -> None:
        super().__init__()
        self.net = net
        self.hooks = Reference(hooks)  # registered in the model
        self.shapes: list[torch.Size] = []

    def forward(self, x: Tensor) -> Tensor:
        hooks, seen = self.hooks.module, list[Tensor]()
        hooks.recorded = seen
        try:
            own_features(self.net, x)
        finally:
            hooks.recorded = None
        self.shapes = [h.shape[1:] for h in seen]
        return torch.cat([h.flatten(1) for h in seen], dim=1)

    def unpacked(self, rows: Tensor) -> Iterator[Tensor]:
        """The activations of such rows, in their own shapes."""
        parts = rows.split([prod(shape) for shape in self.shapes], dim=1)
        return (part.unflatten(1, shape) for part, shape in zip(parts, self.shapes, strict=True))


class BesideCachedActivations(nn.Module):
    """The model with its backbone's arithmetic replaced by activations: (B, sum of sizes) -> logits (B, classes).

    It has the model's own children, under the same names.
    """

    def __init__(self, net: nn.Module, cached: CachedActivations) -> None:
        super().__init__()
        for name, child in net.named_children():
            self.add_module(name, child)
        self.net: Reference[Any] = Reference(net)
        self.cached = Reference(cached)
        self.hooked = [Reference(module) for module in net.modules() if isinstance(module, HookedBlock)]

    def forward(self, rows: Tensor) -> Tensor:
        net, recorded = self.net.module, self.cached.module.unpacked(rows)
        h = rows
        for block in self.hooked:
            h = block.module.replay(h, recorded)
        logits: Tensor = net.forward_head(net.norm(h))
        return logits


def split_cached_activations(net: nn.Module, *, backbone_mode: str) -> tuple[CachedActivations, BesideCachedActivations] | None:
    """(frozen backbone, what trains beside it) sharing the model's modules, or None where activations cannot stand for images.

    They can where a method's hooks read a frozen backbone, every trained parameter belongs to a hook, the final norm or
    the head, and nothing random runs in the backbone: backbone_mode is "eval", or it has neither dropout nor drop-path.
    """
    model = adapted_model(net)
    hooks = model.block_hooks
    if hooks is None or not hooks.frozen or any(hook.uses_mid for hook in hooks.hooks):
        return None
    beside = {module for part in (model.root, *(getattr(net, name, None) for name in READ_OUT)) if isinstance(part, nn.Module)
              for module in part.modules()}  # fmt: skip
    own = {id(p) for module in beside for p in module.parameters(recurse=False)}
    if any(p.requires_grad and id(p) not in own for p in net.parameters()):
        return None
    if backbone_mode != "eval" and any(is_random(module) for module in net.modules() if module not in beside):
        return None
    cached = CachedActivations(net, hooks)
    return cached, BesideCachedActivations(net, cached)
