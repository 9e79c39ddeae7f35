"""Splits of image files: memory-mapped from a cache entry, or decoded whenever they are read."""

import shutil
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from karst_bench.data.images import Source, in_order
from karst_bench.data.resize import Resize
from karst_bench.data.task import ImageBatch, Split
from karst_bench.errors import UserError


class CachedSplit(Split):
    """A split in a cache entry. pixels: memory-mapped uint8 (n, 3, H, W); crcs: uint32 (n,); aspects: float32 (n,);
    resize: applied to what is read, where images are kept at their own size; entry: the folder, for messages."""

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
        self._resize = resize
        self._checked = np.zeros(len(crcs), dtype=bool)

    def read(self, index: torch.Tensor) -> ImageBatch:
        """The images at `index` (b,) int64: a copy. Raises: UserError if the entry was damaged on disk."""
        wanted = index.numpy()
        unchecked = wanted[~self._checked[wanted]]
        if len(unchecked):
            self._check_or_remove(unchecked)
        images = torch.from_numpy(self._pixels[wanted])
        return ImageBatch(images if self._resize is None else self._resize(images), self._aspects[index])

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


class StreamSplit(Split):
    """A split that is decoded whenever it is read, in parallel: for what is too large to keep."""

    def __init__(self, source: Source, resize: Resize) -> None:
        self.name = source.name
        self.labels = source.labels
        self._source = source
        self._resize = resize

    def read(self, index: torch.Tensor) -> ImageBatch:
        """The images at `index` (b,) int64. Raises: BadImageError for the first that cannot be decoded."""
        found = list(in_order(self._source, index.tolist(), self._resize))
        images = torch.stack([image for image, _ in found])
        return ImageBatch(images, torch.tensor([aspect for _, aspect in found]))
