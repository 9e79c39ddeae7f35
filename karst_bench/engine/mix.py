"""Mixup and cutmix of a batch with its own reverse, as NOAH's few-shot recipe uses them."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Mix:
    """Second labels (b,) and the share of the first: loss = share CE(y) + (1 - share) CE(second).

    share: 0-d on the device where the step is recorded, which a number would stay in.
    """

    second: Tensor
    share: float | Tensor


def mix(x: Tensor, y: Tensor, generator: torch.Generator, alphas: tuple[float, float]) -> tuple[Tensor, Mix]:
    """Mix each image with the one at the mirrored place of the batch.

    Mixup [1710.09412]: share x + (1 - share) x'. Cutmix [1905.04899]: a rectangle of x' in x, share = area left of x.
    share ~ Beta(a, a), one draw for the batch. alphas: a of mixup and of cutmix; 0 leaves one of them out, else a fair
    coin chooses. Shapes: x (b, c, H, W), y (b,).
    """
    rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
    cut = rng.random() < 0.5 if all(alphas) else alphas[1] > 0
    share = float(rng.beta(alphas[cut], alphas[cut]))
    partner = x.flip(0)
    if not cut:
        return torch.lerp(partner, x, share), Mix(y.flip(0), share)
    height, width = x.shape[-2:]
    top, bottom = _side(height, share, rng)
    left, right = _side(width, share, rng)
    x = x.clone()
    x[..., top:bottom, left:right] = partner[..., top:bottom, left:right]
    return x, Mix(y.flip(0), 1 - (bottom - top) * (right - left) / (height * width))


def _side(size: int, share: float, rng: np.random.Generator) -> tuple[int, int]:
    """A stretch of sqrt(1 - share) of the side around a random centre, cut off at the border."""
    half = int(size * math.sqrt(1 - share)) // 2
    centre = int(rng.integers(size))
    return max(centre - half, 0), min(centre + half, size)
