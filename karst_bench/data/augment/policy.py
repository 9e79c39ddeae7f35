"""Transforms by name: the views of views.py (vtab, fs_test, fs_train), the normalisation knob, and augmentation.

fs_dtl: random resized crop, flip, RandAugment rand-m9-mstd0.5-inc1 (DTL and KARST's code). fs_noah: the same and
random erasing of a quarter of the pictures (NOAH; timm leaves its colour jitter out where RandAugment is on; mixup and
cutmix belong to the recipe). All random choices come from the generator, in the batch's order, before anything is done:
Pillow does it in threads (augment_pillow), or the GPU on which the pictures lie (augment_tensors).
"""

import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import torch
from PIL import Image
from timm.data.auto_augment import rand_augment_transform

from karst_bench.data.augment import pillow, tensors
from karst_bench.data.augment.plan import AugmentPlan, Step, crop_box, rectangle
from karst_bench.data.images import workers
from karst_bench.data.loader import Augment
from karst_bench.data.resize import normalisation
from karst_bench.data.task import ImageBatch
from karst_bench.errors import UserError

__all__ = ["CropFlipRand", "augmentation", "normalisation"]

NAMES = ("none", "fs_dtl", "fs_noah")
POLICY = "rand-m9-mstd0.5-inc1"
ERASE = 0.25  # probability that a picture loses a rectangle (timm's "pixel" mode)


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
        centre, spread = (255 * torch.tensor(list(values)).view(3, 1, 1) for values in (mean, std))
        self._with_pillow = partial(pillow.augment_with_pillow, size=size, mean=centre, std=spread)
        self._with_tensors = partial(tensors.augment_with_tensors, size=size, mean=centre, std=spread, fill=fill)
        self._pool: ThreadPoolExecutor | None = None

    def __call__(self, batch: ImageBatch, generator: torch.Generator, /) -> torch.Tensor:
        """A changed copy of the batch, on its device."""
        images = batch.images
        plans = self.plans(images.shape[-1], batch.aspects.tolist(), generator)
        if images.device.type != "cpu":
            return self._with_tensors(images, plans)
        self._pool = self._pool or ThreadPoolExecutor(workers())
        return torch.stack(list(self._pool.map(self._with_pillow, images, plans)))

    def plans(self, side: int, aspects: Sequence[float], generator: torch.Generator) -> list[AugmentPlan]:
        """What will be done to pictures of these widths over heights, squashed to `side` x `side` pixels."""
        rng = random.Random(int(torch.randint(2**62, (), generator=generator)))
        plans = []
        state = random.getstate()  # timm's level functions draw from the module's generator: lend it ours
        try:
            for aspect in aspects:
                random.seed(rng.getrandbits(62))
                left, top, right, bottom = crop_box(rng, aspect)
                steps = tuple(step for op in rng.choices(self._operations, k=self._layers) if (step := _drawn(op, rng)))
                erased = rectangle(rng, self.size) if rng.random() < self.erase else None
                box = (left * side, top * side, right * side, bottom * side)
                plans.append(AugmentPlan(box, rng.random() < 0.5, steps, erased, rng.getrandbits(62)))
        finally:
            random.setstate(state)
        return plans


def _drawn(operation: Any, rng: random.Random) -> Step | None:
    """One of timm's operations with its random choices made, so that it can be applied in any thread; None: skipped."""
    if operation.prob < 1.0 and rng.random() > operation.prob:
        return None
    magnitude = operation.magnitude
    if operation.magnitude_std > 0:
        magnitude = rng.gauss(magnitude, operation.magnitude_std)
    magnitude = max(0.0, min(magnitude, operation.magnitude_max or 10.0))
    draw = operation.level_fn
    arguments: tuple[float, ...] = draw(magnitude, operation.hparams) if draw is not None else ()
    name = operation.name.removesuffix("Increasing")

    def apply(image: Image.Image) -> Image.Image:
        if name == "Posterize" and arguments[0] < 1:
            # at the strongest level timm keeps 0 bits: black, as Pillow had it until it came to refuse the number
            return Image.new(image.mode, image.size)
        changed: Image.Image = operation.aug_fn(image, *arguments, **operation.kwargs)
        return changed

    return Step(name, arguments, apply)
