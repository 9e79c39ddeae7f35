"""Augmentations of image batches (b, 3, H, W), on the batch's device; what is random in them is handed in (see draws)."""

import torch
from torch.nn import functional

REACH = 4  # pixels that a photograph is moved by, at most
STRENGTH = 0.4  # of jitter
HOLE, HOLE_SHARE = 10, 0.5  # pixels along a side of the grey square, and the share of photographs that get one


def flip_and_shift(images: torch.Tensor, flip: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Images mirrored left-right where flip (b,) is true, and moved by shift (2, b) in 0..2 REACH (borders reflected)."""
    b, _, height, width = images.shape
    images = torch.where(flip.view(b, 1, 1, 1), images.flip(3), images)
    padded = functional.pad(images.float(), (REACH,) * 4, mode="reflect")
    rows = (shift[0, :, None] + torch.arange(height, device=images.device)).view(b, 1, height, 1)
    columns = (shift[1, :, None] + torch.arange(width, device=images.device)).view(b, 1, 1, width)
    batch = torch.arange(b, device=images.device).view(b, 1, 1, 1)
    return padded[batch, torch.arange(3, device=images.device).view(1, 3, 1, 1), rows, columns]


def jitter(images: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Brightness, contrast and saturation times scale (3, b); float (b, 3, H, W) in 0..255."""
    bright, contrast, colour = scale.view(3, -1, 1, 1, 1).unbind(0)
    x = images.float() * bright
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    x = mean + (x - mean) * contrast
    grey = x.mean(dim=1, keepdim=True)
    return (grey + (x - grey) * colour).clamp(0, 255)


def quarter_turns(images: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Each image turned by turns (b,) times 90 degrees."""
    turned = torch.stack([images.rot90(quarter, dims=(2, 3)) for quarter in range(4)])
    return turned[turns, torch.arange(len(images), device=images.device)]


def erase(images: torch.Tensor, corner: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
    """A grey square of HOLE pixels with its upper left at corner (2, b), where there (b,) is true (cut-out)."""
    height, width = images.shape[2:]
    top, left = corner.view(2, -1, 1, 1, 1).unbind(0)
    row = torch.arange(height, device=images.device).view(1, 1, -1, 1)
    column = torch.arange(width, device=images.device).view(1, 1, 1, -1)
    hole = (row >= top) & (row < top + HOLE) & (column >= left) & (column < left + HOLE) & there.view(-1, 1, 1, 1)
    return torch.where(hole, torch.full_like(images, 128), images)
