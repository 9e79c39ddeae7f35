"""Convolutions over tokens that form an image."""

from collections.abc import Callable

import torch
from torch import Tensor

Maps = Callable[[Tensor], Tensor]  # (B, d, H, W) -> (B, e, H, W)


def over_patches(h: Tensor, on_map: Maps, on_prefix: Maps, *, prefix: int, grid: tuple[int, int]) -> Tensor:
    """on_map over the patch tokens laid out as their grid, on_prefix over each prefix token as a map of one pixel.

    Shapes: h (B, prefix + H W, d), or (B, H, W, d), which has no prefix -> the same with e channels.
    """
    if h.ndim == 4:
        return on_map(h.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    patches = on_map(h[:, prefix:].transpose(1, 2).unflatten(-1, grid)).flatten(2).transpose(1, 2)
    if not prefix:
        return patches
    single = on_prefix(h[:, :prefix].flatten(0, 1)[..., None, None]).flatten(1)  # (B prefix, e)
    return torch.cat([single.unflatten(0, (-1, prefix)), patches], dim=1)
