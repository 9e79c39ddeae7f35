"""PACE's noise on what a method adds, one value for each image and channel [arXiv 2409.17137]."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class BatchInHand:
    """What a training step tells the layers: how many images its batch holds, and that they stand there `copies` times."""

    rows: int = 0  # outside a step: as many as a layer is given
    copies: int = 1

    @contextmanager
    def holding(self, rows: int, copies: int) -> Iterator[None]:
        """A step's batch of so many rows, within."""
        self.rows, self.copies = rows, copies
        try:
            yield
        finally:
            self.rows, self.copies = 0, 1


@dataclass(frozen=True)
class PartNoise:
    """a -> (1 + sigma n) a, n ~ N(0, 1) for each image and channel, a constant in backward          [PACE, arXiv 2409.17137]

    Shapes: a (B, ..., C), n (B, 1, ..., C); where windows of an image stand one after the other, (B nW, L, C), they share
    theirs. Copies of an image draw apart.
    """

    sigma: float
    batch: BatchInHand

    def added(self, a: Tensor) -> Tensor:
        """sigma n a alone."""
        rows = self.batch.rows or a.shape[0]
        n = torch.randn(rows, *[1] * (a.ndim - 2), a.shape[-1], device=a.device, dtype=a.dtype)
        return self.sigma * n.repeat_interleave(a.shape[0] // rows, 0) * a
