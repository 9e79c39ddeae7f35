"""Transforms by name: the views of views.py (vtab, fs_test, fs_train), the normalisation knob, and augmentation.

fs_dtl: random resized crop, flip, RandAugment rand-m9-mstd0.5-inc1 (DTL and KARST's code). fs_noah: the same and
random erasing of a quarter of the pictures (NOAH; timm leaves its colour jitter out where RandAugment is on; mixup and
cutmix belong to the recipe). All random choices come from the generator, in the batch's order; threads do the work.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data.auto_augment import rand_augment_transform

from karst_bench.data.batches import Augment
from karst_bench.data.source import workers
from karst_bench.data.views import View, aspects_of, normalisation
from karst_bench.errors import UserError

__all__ = ["CropFlipRand", "View", "augmentation", "crop_box", "normalisation"]

NAMES = ("none", "fs_dtl", "fs_noah")
POLICY = "rand-m9-mstd0.5-inc1"
SCALE = (0.08, 1.0)  # area of a crop over the picture's
RATIO = (3 / 4, 4 / 3)  # width over height of a crop
ERASE = 0.25  # probability that a picture loses a rectangle (timm's "pixel" mode)

_Box = tuple[float, float, float, float]
_Step = Callable[[Image.Image], Image.Image]


def augmentation(name: str | None, *, size: int, mean: Sequence[float], std: Sequence[float]) -> Augment | None:
    """The augmentation of `recipe.augment`, or None for none.

    size: of the network's input. mean, std: of the normalisation (fill colour and erasing noise). Raises: UserError for
    another name.
    """
    if name in (None, "none"):
        return None
    if name not in NAMES:
        raise UserError(f"recipe.augment={name} is not known; choose one of {', '.join(NAMES)}")
    return CropFlipRand(size=size, mean=mean, std=std, erase=ERASE if name == "fs_noah" else 0.0)


@dataclass(frozen=True)
class _Plan:
    """What is done to one picture: crop box in pixels of the square, flip, steps, rectangle to erase and its seed."""

    box: _Box
    flip: bool
    steps: tuple[_Step, ...]
    erase: tuple[int, int, int, int] | None
    seed: int


class CropFlipRand:
    """Crop, flip, RandAugment and (fs_noah) erase. uint8 (b, 3, S, S) -> float32 (b, 3, size, size), levels 0..255.

    Crops are drawn in the picture's own proportions, which a batch from an fs_train view carries along.
    """

    def __init__(self, *, size: int, mean: Sequence[float], std: Sequence[float], erase: float) -> None:
        self.size = size
        self.erase = erase
        fill = tuple(min(255, round(255 * value)) for value in mean)
        hyper = {"translate_const": int(0.45 * size), "img_mean": fill, "interpolation": Image.Resampling.BICUBIC}
        policy = rand_augment_transform(POLICY, hyper)
        self._operations = list(policy.ops)
        self._layers = policy.num_layers
        self._mean = 255 * torch.tensor(list(mean)).view(3, 1, 1)
        self._std = 255 * torch.tensor(list(std)).view(3, 1, 1)
        self._pool: ThreadPoolExecutor | None = None

    def __call__(self, images: torch.Tensor, generator: torch.Generator, /) -> torch.Tensor:
        """A changed copy of the batch."""
        seed = int(torch.randint(2**62, (), generator=generator))
        plans = self._plan(random.Random(seed), images.shape[-1], aspects_of(images).tolist())
        self._pool = self._pool or ThreadPoolExecutor(workers())
        return torch.stack(list(self._pool.map(self._one, images, plans)))

    def _plan(self, rng: random.Random, side: int, aspects: list[float]) -> list[_Plan]:
        plans = []
        state = random.getstate()  # timm's level functions draw from the module's generator: lend it ours
        try:
            for aspect in aspects:
                random.seed(rng.getrandbits(62))
                box = crop_box(rng, aspect)
                steps = tuple(step for op in rng.choices(self._operations, k=self._layers) if (step := _drawn(op, rng)))
                rectangle = _rectangle(rng, self.size) if rng.random() < self.erase else None
                scaled = (box[0] * side, box[1] * side, box[2] * side, box[3] * side)
                plans.append(_Plan(scaled, rng.random() < 0.5, steps, rectangle, rng.getrandbits(62)))
        finally:
            random.setstate(state)
        return plans

    def _one(self, picture: torch.Tensor, plan: _Plan) -> torch.Tensor:
        image = Image.fromarray(picture.permute(1, 2, 0).numpy())
        image = image.resize((self.size, self.size), Image.Resampling.BICUBIC, box=plan.box)
        if plan.flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        for step in plan.steps:
            image = step(image)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float()
        if plan.erase is not None:
            top, left, height, width = plan.erase
            noise = torch.randn((3, height, width), generator=torch.Generator().manual_seed(plan.seed))
            pixels[:, top : top + height, left : left + width] = noise * self._std + self._mean
        return pixels


def _drawn(operation: Any, rng: random.Random) -> _Step | None:
    """One of timm's operations with its random choices made, so that it can be applied in any thread; None: skipped."""
    if operation.prob < 1.0 and rng.random() > operation.prob:
        return None
    magnitude = operation.magnitude
    if operation.magnitude_std > 0:
        magnitude = rng.gauss(magnitude, operation.magnitude_std)
    magnitude = max(0.0, min(magnitude, operation.magnitude_max or 10.0))
    draw = operation.level_fn
    arguments: tuple[Any, ...] = draw(magnitude, operation.hparams) if draw is not None else ()
    if operation.name.startswith("Posterize") and arguments[0] < 1:
        # at the strongest level timm keeps 0 bits: black, as Pillow had it until it came to refuse the number
        return lambda image: Image.new(image.mode, image.size)

    def step(image: Image.Image) -> Image.Image:
        changed: Image.Image = operation.aug_fn(image, *arguments, **operation.kwargs)
        return changed

    return step


def crop_box(rng: random.Random, aspect: float) -> _Box:
    """A random crop of a picture of width over height `aspect`: (left, top, right, bottom), each in 0..1 of its sides.

    Area and proportions as in torchvision's RandomResizedCrop: ten tries, then the largest central crop within RATIO.
    """
    for _ in range(10):
        area = rng.uniform(*SCALE) * aspect  # the picture is `aspect` wide and 1 high
        ratio = math.exp(rng.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        width, height = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if width <= aspect and height <= 1:
            left, top = rng.uniform(0, aspect - width), rng.uniform(0, 1 - height)
            return left / aspect, top, (left + width) / aspect, top + height
    width = min(aspect, RATIO[1]) / aspect
    height = min(1.0, aspect / RATIO[0])
    return (1 - width) / 2, (1 - height) / 2, (1 + width) / 2, (1 + height) / 2


def _rectangle(rng: random.Random, size: int) -> tuple[int, int, int, int] | None:
    """A rectangle to erase, (top, left, height, width): 2 to 33 % of the area, ratio 0.3 to 3.3, as timm draws it."""
    for _ in range(10):
        area = rng.uniform(0.02, 1 / 3) * size * size
        ratio = math.exp(rng.uniform(math.log(0.3), math.log(1 / 0.3)))
        height, width = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if height < size and width < size:
            return rng.randint(0, size - height), rng.randint(0, size - width), height, width
    return None
