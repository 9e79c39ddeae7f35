"""Frozen features, computed once: where all that trains stands behind the backbone, each image needs one pass through it."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from karst_bench.adapt.timm_sites import classifiers, head_parameters
from karst_bench.methods.base import Batches
from karst_bench.nn.eval_mode import eval_mode
from karst_bench.stopping import watched

DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
UNKNOWN_FREE = 4 << 30  # bytes that are taken to be free where the system does not tell


class FrozenBackbone(nn.Module):
    """A timm model up to its classifier: images (B, 3, H, W) -> pooled features (B, d)."""

    net: Any

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.net.forward_head(self.net.forward_features(x), pre_logits=True)
        return features


class HeadOnly(nn.Module):
    """The classifier alone, the very module of the model: features (B, d) -> logits (B, classes)."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.head(features)
        return logits


def split_head(net: nn.Module, *, backbone_mode: str) -> tuple[FrozenBackbone, HeadOnly] | None:
    """(frozen backbone, trainable head) sharing the model's modules, or None where features cannot stand for images.

    They can where every trained parameter belongs to the one classifier and nothing random runs before it: backbone_mode is
    "eval", or the model has neither dropout nor drop-path.
    """
    heads, own = list(classifiers(net).values()), head_parameters(net)
    if len(heads) != 1 or not own or any(p.requires_grad and id(p) not in own for p in net.parameters()):
        return None
    if backbone_mode != "eval" and any(is_random(module) for module in net.modules()):
        return None
    return FrozenBackbone(net), HeadOnly(heads[0])


class FeatureBatches:
    """Batches of features in the order in which `images` would give its own: the same seed, the same batches.

    One pass of the backbone over the images, in evaluation mode and without gradients; the images must not be augmented.
    What it gives is stored beside the labels: 3 MB for the last features of 1000 images on ViT-B/16 in fp32, 8 GB for
    the activations of all its blocks. Where that is more than `room` (bytes; by default half of the free memory), every
    epoch makes its pass anew; `images` must then give batches of the same size. Features of one image do not depend on
    the others in its batch but for rounding. every: the batches that are stored, where `images` leave out an epoch's last
    images, of the same size then.
    """

    def __init__(
        self, backbone: nn.Module, images: Batches, *, batch: int, autocast: AbstractContextManager[object],
        room: int | None = None, every: Batches | None = None,
    ) -> None:  # fmt: skip
        self.backbone, self.images, self.batch, self.autocast = backbone, images, batch, autocast
        self.every = every
        self._stored = self._store(room)

    def __len__(self) -> int:
        if self._stored is None or self.every is not None:
            return len(self.images)
        return -(-len(self._stored[1]) // self.batch)

    def epoch(self, generator: torch.Generator | None, skip: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """(features, labels) of every batch, shuffled by the generator, in order without one; `skip` leaves some out."""
        if self._stored is None:
            yield from self._passed(self.images, generator, skip)
            return
        features, labels = self._stored
        n = len(labels)
        order = torch.arange(n)
        if generator is not None:
            order = torch.randperm(n, generator=generator)
            torch.randint(2**62, (), generator=generator)  # the seed that images draw for their augmentation
        order = order.to(labels.device)
        for start in range(skip * self.batch, min(n, len(self) * self.batch), self.batch):
            index = order[start : start + self.batch]
            yield features[index], labels[index]

    def _store(self, room: int | None) -> tuple[Tensor, Tensor] | None:
        features, labels, filled = torch.empty(0), [], 0
        every = self.images if self.every is None else self.every
        for rows, y in watched(self._passed(every, None, 0)):
            if not filled:
                count = len(every) * len(y)  # the last batch may be smaller
                if count * rows[0].nbytes > (_free_bytes(rows.device) // 2 if room is None else room):
                    return None
                features = rows.new_empty(count, *rows.shape[1:])
            features[filled : filled + len(y)] = rows
            filled += len(y)
            labels.append(y)
        return features[:filled], torch.cat(labels)

    def _passed(
        self, images: Batches, generator: torch.Generator | None, skip: int
    ) -> Iterator[tuple[Tensor, Tensor]]:  # fmt: skip
        for x, y in images.epoch(generator, skip):
            with eval_mode(self.backbone), self.autocast:
                rows = self.backbone(x)
            yield rows, y


def is_random(module: nn.Module) -> bool:
    """Whether training draws random numbers here: dropout or drop-path at a rate above 0."""
    if isinstance(module, DropPath):
        return bool(module.drop_prob)
    return isinstance(module, DROPOUTS) and module.p > 0


def _free_bytes(device: torch.device) -> int:
    """Free memory of a GPU, or of the machine where the system tells."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if "SC_AVPHYS_PAGES" in getattr(os, "sysconf_names", {}):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return UNKNOWN_FREE
