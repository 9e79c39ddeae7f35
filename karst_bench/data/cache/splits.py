"""Splits that come from pictures: memory-mapped, in memory, or decoded whenever they are read."""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from karst_bench.data.images import Source, in_order
from karst_bench.data.resize import Resize, mark_aspects
from karst_bench.data.task import ArraySplit, Split
from karst_bench.errors import UserError


class CachedSplit(Split):
    """A split in a cache entry. pixels: memory-mapped uint8 (n, 3, H, W); crcs: uint32 (n,); aspects: float32 (n,);
    view: applied to what is read, where images are kept at their own size; entry: the folder, for messages."""

    def __init__(
        self,
        source: Source,
        pixels: np.ndarray,
        crcs: np.ndarray,
        aspects: torch.Tensor,
        resize: Resize | None,
        entry: Path,
    ) -> None:
        self.name = source.name
        self.labels = source.labels
        self.entry = entry
        self._pixels = pixels
        self._crcs = crcs
        self._aspects = aspects
        self._view = resize
        self._checked = np.zeros(len(crcs), dtype=bool)

    def images(self, index: torch.Tensor) -> torch.Tensor:
        """The images at `index` (b,): uint8 (b, 3, H, W). Raises: UserError if the entry was damaged on disk."""
        wanted = index.numpy()
        unchecked = wanted[~self._checked[wanted]]
        if len(unchecked):
            self._check_or_remove(unchecked)
        images = torch.from_numpy(self._pixels[wanted])
        return mark_aspects(images if self._view is None else self._view(images), self._aspects[index])

    def check(self, indices: Iterable[int]) -> None:
        """Compare images with their checksums. Raises: ValueError naming the first that differs."""
        for index in indices:
            if zlib.crc32(self._pixels[index]) != self._crcs[index]:
                raise ValueError(f"image {index} differs from its checksum")
            self._checked[index] = True

    def _check_or_remove(self, indices: np.ndarray) -> None:
        try:
            self.check(indices)
        except ValueError as error:
            shutil.rmtree(self.entry, ignore_errors=True)
            raise UserError(f"{self.entry} is damaged ({error}) and was removed; start again to rebuild it") from error


class MemorySplit(ArraySplit):
    """A split held in memory, where the disk cannot take it."""

    def __init__(self, source: Source, pixels: torch.Tensor, aspects: torch.Tensor) -> None:
        super().__init__(source.name, pixels, source.labels)
        self._aspects = aspects

    def images(self, index: torch.Tensor) -> torch.Tensor:
        """The images at `index` (b,): uint8 (b, 3, H, W)."""
        return mark_aspects(super().images(index), self._aspects[index])


class StreamSplit(Split):
    """A split that is decoded whenever it is read, in parallel: for what is too large to keep."""

    def __init__(self, source: Source, resize: Resize) -> None:
        self.name = source.name
        self.labels = source.labels
        self._source = source
        self._view = resize

    def images(self, index: torch.Tensor) -> torch.Tensor:
        """The images at `index` (b,): uint8 (b, 3, H, W). Raises: BadImageError."""
        found = list(in_order(self._source, index.tolist(), self._view))
        images = torch.stack([image for image, _ in found])
        return mark_aspects(images, torch.tensor([aspect for _, aspect in found]))
