"""Convolutions over tokens that form an image."""

from collections.abc import Callable

import torch
from torch import Tensor

from karst_bench.errors import UserError

Maps = Callable[[Tensor], Tensor]  # (B, d, H, W) -> (B, e, H, W)


def over_patches(h: Tensor, on_map: Maps, on_prefix: Maps, *, prefix: int, grid: Callable[[], tuple[int, int]]) -> Tensor:
    """on_map over the patch tokens laid out as their grid, on_prefix over each prefix token as a map of one pixel.

    Shapes: h (B, prefix + H W, d), or (B, H, W, d), which has no prefix -> the same with e channels. grid: () -> (H, W).
    Raises: UserError where tokens were dropped, so that they form no image.
    """
    if h.ndim == 4:
        return on_map(h.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    rows, columns = grid()
    if h.shape[1] - prefix != rows * columns:
        raise UserError(
            f"a convolution over patches needs the whole grid of {rows} x {columns}, and here are {h.shape[1] - prefix} patches: "
            "build the model with patch_drop_rate=0, or choose another method"
        )
    patches = on_map(h[:, prefix:].transpose(1, 2).unflatten(-1, (rows, columns))).flatten(2).transpose(1, 2)
    if not prefix:
        return patches
    single = on_prefix(h[:, :prefix].flatten(0, 1)[..., None, None]).flatten(1)  # (B prefix, e)
    return torch.cat([single.unflatten(0, (-1, prefix)), patches], dim=1)
