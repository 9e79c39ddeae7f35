"""Augmentations of uint8 batches (b, 3, H, W) for pre-training, each drawn from the generator it is given."""

from __future__ import annotations

import torch
from torch.nn import functional


def flip_and_shift(images: torch.Tensor, generator: torch.Generator, reach: int = 4) -> torch.Tensor:
    """Half of the images mirrored left-right, each moved by up to `reach` pixels (the border is reflected)."""
    b, _, height, width = images.shape
    flip = torch.rand(b, generator=generator) < 0.5
    images = torch.where(flip.view(b, 1, 1, 1), images.flip(3), images)
    padded = functional.pad(images.float(), (reach,) * 4, mode="reflect").to(torch.uint8)
    offset = torch.randint(0, 2 * reach + 1, (2, b), generator=generator)
    rows = (offset[0, :, None] + torch.arange(height)).view(b, 1, height, 1)
    columns = (offset[1, :, None] + torch.arange(width)).view(b, 1, 1, width)
    batch, channel = torch.arange(b).view(b, 1, 1, 1), torch.arange(3).view(1, 3, 1, 1)
    return padded[batch, channel, rows, columns]


def jitter(images: torch.Tensor, generator: torch.Generator, strength: float = 0.4) -> torch.Tensor:
    """Brightness, contrast and saturation, each scaled by 1 +- strength per image; float (b, 3, H, W) in 0..255."""
    b = len(images)
    bright, contrast, colour = (1 + strength * (2 * torch.rand(3, b, 1, 1, 1, generator=generator) - 1)).unbind(0)
    x = images.float() * bright
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    x = mean + (x - mean) * contrast
    grey = x.mean(dim=1, keepdim=True)
    return (grey + (x - grey) * colour).clamp(0, 255)


def quarter_turns(images: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Each image turned by 0, 90, 180 or 270 degrees; returns the images and the number of quarter turns (b,)."""
    turns = torch.randint(0, 4, (len(images),), generator=generator)
    out = torch.empty_like(images)
    for quarter in range(4):
        out[turns == quarter] = images[turns == quarter].rot90(quarter, dims=(2, 3))
    return out, turns


def erase(images: torch.Tensor, generator: torch.Generator, side: int = 10, share: float = 0.5) -> torch.Tensor:
    """A grey square of `side` pixels somewhere on `share` of the images (cut-out)."""
    b, _, height, width = images.shape
    top = torch.randint(-side // 2, height - side // 2, (b, 1, 1, 1), generator=generator)
    left = torch.randint(-side // 2, width - side // 2, (b, 1, 1, 1), generator=generator)
    row, column = torch.arange(height).view(1, 1, -1, 1), torch.arange(width).view(1, 1, 1, -1)
    hole = (row >= top) & (row < top + side) & (column >= left) & (column < left + side)
    hole &= torch.rand(b, 1, 1, 1, generator=generator) < share
    return torch.where(hole, torch.full_like(images, 128), images)
