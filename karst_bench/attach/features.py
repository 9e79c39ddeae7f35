"""Frozen features, computed once: where nothing but the classifier trains, each image needs one pass through the trunk."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from timm.layers import DropPath
from torch import Tensor, nn


class Images(Protocol):
    """Batches of a split, as the data layer makes them."""

    def __len__(self) -> int: ...

    def epoch(self, generator: torch.Generator | None, skip: int = 0) -> Iterator[tuple[Tensor, Tensor]]: ...


class Trunk(nn.Module):
    """A timm model up to its classifier: images (B, 3, H, W) -> pooled features (B, d)."""

    net: Any

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net.forward_head(self.net.forward_features(x), pre_logits=True)


class Probe(nn.Module):
    """The classifier alone, the very module of the model: features (B, d) -> logits (B, classes)."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, features: Tensor) -> Tensor:
        return self.head(features)


def split_probe(net: nn.Module, *, trunk_mode: str) -> tuple[Trunk, Probe] | None:
    """(frozen trunk, trainable head) sharing the model's modules, or None where features cannot stand for images.

    They can where every trained parameter belongs to the classifier and nothing random runs before it: trunk_mode is
    "eval", or the model has neither dropout nor drop-path.
    """
    head = net.get_classifier()  # type: ignore[operator]
    own = {id(p) for p in head.parameters()}
    if not own or any(p.requires_grad and id(p) not in own for p in net.parameters()):
        return None
    if trunk_mode != "eval" and any(_random(module) for module in net.modules()):
        return None
    return Trunk(net), Probe(head)


class FeatureBatches:
    """Batches of stored features in the order in which `images` would give its own: the same seed, the same batches.

    One pass over the images, in evaluation mode and without gradients. The images must not be augmented.
    Memory: n d values, 12 MB for 1000 images of ViT-B/16 in fp32.
    """

    def __init__(
        self, trunk: nn.Module, images: Images, *, batch: int, autocast: AbstractContextManager[object]
    ) -> None:
        modes = [(module, module.training) for module in trunk.modules()]
        trunk.eval()
        features, labels = [], []
        with torch.no_grad(), autocast:
            for x, y in images.epoch(None):
                features.append(trunk(x))
                labels.append(y)
        for module, training in modes:
            module.training = training
        self.features, self.labels, self.batch = torch.cat(features), torch.cat(labels), batch

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch)

    def epoch(self, generator: torch.Generator | None, skip: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """(features, labels) of every batch, shuffled by the generator, in order without one; `skip` leaves some out."""
        n = len(self.labels)
        order = torch.arange(n)
        if generator is not None:
            order = torch.randperm(n, generator=generator)
            torch.randint(2**62, (), generator=generator)  # the seed that images draw for their augmentation
        order = order.to(self.labels.device)
        for start in range(skip * self.batch, n, self.batch):
            index = order[start : start + self.batch]
            yield self.features[index], self.labels[index]


def _random(module: nn.Module) -> bool:
    rate = module.drop_prob if isinstance(module, DropPath) else getattr(module, "p", 0.0)
    return isinstance(module, DropPath | nn.modules.dropout._DropoutNd) and bool(rate)
