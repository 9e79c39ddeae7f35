"""Normalised float batches of a split, in process: splits are decoded already, so no loader workers are needed."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch

from karst_bench.data.task import ImageBatch, Split

HELD = 4096  # images of a split that a GPU keeps; more are sent batch by batch


class Augment(Protocol):
    """A random change of a batch on its device: uint8 (b, 3, S, S) -> uint8 or float (levels 0..255), (b, 3, H, W)."""

    def __call__(self, batch: ImageBatch, generator: torch.Generator, /) -> torch.Tensor: ...


class SplitBatches:
    """Batches (x, y) of a split: x = (pixels / 255 - mean) / std, float32 (b, 3, H, W); y int64 (b,).

    split: the images; batch: images in a step (the last one of an epoch may be smaller; drop_last leaves such a one out,
    but never an only one); mean, std: of the backbone, per channel, in 0..1; device: where x and y go; augment: applied to
    the uint8 pixels there, in epochs with a generator. hold: keep pixels and labels on the device, so that an epoch sends
    nothing but its order and what is drawn for augmentation; by default on a GPU where the split is small.
    Raises: ValueError for an empty split, a batch below 1, or a mean and std that are not three numbers each.
    """

    def __init__(
        self,
        split: Split,
        *,
        batch: int,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device | str,
        augment: Augment | None = None,
        hold: bool | None = None,
        drop_last: bool = False,
    ) -> None:
        if len(split) == 0:
            raise ValueError(f"split {split.name} holds no images; check its list")
        if batch < 1:
            raise ValueError(f"split {split.name}: batch must be at least 1, got {batch}")
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise ValueError(f"mean and std must be three numbers each, std above 0; got mean={mean}, std={std}")
        self.split = split
        self.batch = batch
        self.drop_last = drop_last and len(split) >= batch
        self.device = torch.device(device)
        self.augment = augment
        self._hold = hold if hold is not None else len(split) <= HELD and self.device.type != "cpu"
        self._held: tuple[ImageBatch, torch.Tensor] | None = None
        # (u / 255 - mean) / std written as one multiplication and one addition on the pixels u in 0..255
        self._scale = (1 / (255 * torch.tensor(std, device=self.device))).view(1, 3, 1, 1)
        shift = torch.tensor(mean, device=self.device) / torch.tensor(std, device=self.device)
        self._shift = -shift.view(1, 3, 1, 1)

    def __len__(self) -> int:
        """Steps in an epoch: ceil(n / batch), floor with drop_last."""
        full, rest = divmod(len(self.split), self.batch)
        return full + bool(rest and not self.drop_last)

    def epoch(self, generator: torch.Generator | None, skip: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """One pass: shuffled by one randperm of `generator` (also used to augment), or in order when None.

        skip: leading batches to leave out (resuming in mid-epoch). Each step's augmentation is drawn from its own
        stream, seeded once per epoch, so a resumed epoch goes on exactly as the unbroken one would have.
        """
        if not 0 <= skip <= len(self):
            raise ValueError(f"split {self.split.name}: skip={skip} must lie in 0..{len(self)} (steps in an epoch)")
        if generator is None:
            order = torch.arange(len(self.split))
            epoch_seed = None
        else:
            order = torch.randperm(len(self.split), generator=generator)
            epoch_seed = int(torch.randint(2**62, (), generator=generator))
        there = order.to(self.device) if self._hold else order
        for step in range(skip, len(self)):
            part = slice(step * self.batch, (step + 1) * self.batch)
            batch, labels = self._read(order[part], there[part])
            images = batch.images
            if self.augment is not None and epoch_seed is not None:
                images = self.augment(batch, torch.Generator().manual_seed(epoch_seed + step))
            yield self._normalise(images), labels.to(self.device, non_blocking=True)

    def _read(self, index: torch.Tensor, there: torch.Tensor) -> tuple[ImageBatch, torch.Tensor]:
        """Images and labels at `index`, on the device; `there` is the index as it lies beside what is held."""
        if not self._hold:
            return self.split.read(index).to(self.device), self.split.labels[index]
        if self._held is None:
            everything = self.split.read(torch.arange(len(self.split)))
            self._held = everything.to(self.device), self.split.labels.to(self.device)
        held, labels = self._held
        return ImageBatch(held.images[there], held.aspects[index]), labels[there]

    def _normalise(self, images: torch.Tensor) -> torch.Tensor:
        return torch.addcmul(self._shift, images.float(), self._scale)
