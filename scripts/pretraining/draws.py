"""Everything random in a step of pre-training, drawn on the CPU from the seed and the step's number alone.

So the order of the images and their augmentation are the same on every device, and after a run was broken off.
"""

import torch

from scripts.pretraining.augment import HOLE, HOLE_SHARE, REACH, STRENGTH
from scripts.pretraining.objective import TURNED_SHARE

Draws = dict[str, torch.Tensor]


def order(seed: int, epoch: int, n: int) -> torch.Tensor:
    """The photographs' order in one pass over all n of them."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed * 1009 + epoch))


def step_draws(seed: int, step: int, *, photos: int, scenes: int, all_scenes: int, side: int) -> Draws:
    """What one step draws beside the photographs' order: which scenes, and how each image of side x side is changed."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)

    def whole(low: int, high: int, *shape: int) -> torch.Tensor:
        return torch.randint(low, high, shape, generator=generator)

    def share(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator)

    return {
        "scenes": whole(0, all_scenes, scenes),
        "flip": share(photos) < 0.5,
        "shift": whole(0, 2 * REACH + 1, 2, photos),
        "turns": whole(0, 4, photos // TURNED_SHARE),
        "photo_scale": 1 + STRENGTH * (2 * share(3, photos) - 1),
        "scene_scale": 1 + STRENGTH * (2 * share(3, scenes) - 1),
        "corner": whole(-HOLE // 2, side - HOLE // 2, 2, photos),
        "hole": share(photos) < HOLE_SHARE,
    }
