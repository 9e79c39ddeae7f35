"""A plan of random changes carried out on one image by Pillow: what training on a CPU sees."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from karst_bench.data.augment.plan import AugmentPlan


def augment_with_pillow(pixels: Tensor, plan: AugmentPlan, *, size: int, mean: Tensor, std: Tensor) -> Tensor:
    """uint8 (3, S, S) -> float32 (3, size, size), levels 0..255 but in an erased rectangle, which is mean + std * noise.

    mean, std: (3, 1, 1) in levels.
    """
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    image = image.resize((size, size), Image.Resampling.BICUBIC, box=plan.box)
    if plan.flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for step in plan.steps:
        image = step.apply(image)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float()
    if plan.erase is not None:
        top, left, height, width = plan.erase
        noise = torch.randn((3, height, width), generator=torch.Generator().manual_seed(plan.seed))
        pixels[:, top : top + height, left : left + width] = noise * std + mean
    return pixels
