"""Random changes of training images, as a file of conf/augment says: crop, flip, RandAugment and erasing.

All random choices of a batch come from its generator, in the batch's order, before anything is done: Pillow then does it
in threads (pillow.py), or the GPU on which the images lie (tensors.py). Mixup and cutmix act on whole batches: engine/mix.py.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import torch
from PIL import Image
from timm.data.auto_augment import AugmentOp, rand_augment_transform

from karst_bench.data.augment import pillow, tensors
from karst_bench.data.augment.plan import AugmentPlan, Step, crop_box, rectangle
from karst_bench.data.images import workers
from karst_bench.data.loader import Augment
from karst_bench.data.task import ImageBatch
from karst_bench.errors import UserError


def augmentation(
    config: Mapping[str, Any], *, size: int, mean: Sequence[float], std: Sequence[float]
) -> Augment | None:
    """What `config` (the group `augment`) does to images, or None where it changes none.

    size: of the network's input. mean, std: of the normalisation, per channel in 0..1 (fill colour and erasing noise).
    Raises: UserError for a policy that timm does not know.
    """
    if not any(config[key] for key in ("crop", "flip", "policy", "erase")):
        return None
    return RandomAugment(config, size=size, mean=mean, std=std)


class RandomAugment:
    """Crop, flip, RandAugment, erase: uint8 (b, 3, S, S) -> float32 (b, 3, size, size), levels 0..255.

    Crops are drawn in each image's own proportions, which a batch carries along. Raises: see `augmentation`.
    """

    def __init__(self, config: Mapping[str, Any], *, size: int, mean: Sequence[float], std: Sequence[float]) -> None:
        self.size = size
        self.crop: Mapping[str, Sequence[float]] | None = config["crop"]
        self.flip: float = config["flip"]
        self.erase: float = config["erase"]
        fill = tuple(min(255, round(255 * value)) for value in mean)
        self._operations, self._layers = _randaugment(config["policy"], size, fill) if config["policy"] else ([], 0)
        centre, spread = (255 * torch.tensor(list(values)).view(3, 1, 1) for values in (mean, std))
        self.with_pillow = partial(pillow.augment_with_pillow, size=size, mean=centre, std=spread)
        self.with_tensors = partial(tensors.augment_with_tensors, size=size, mean=centre, std=spread, fill=fill)
        self._pool: ThreadPoolExecutor | None = None

    def __call__(self, batch: ImageBatch, generator: torch.Generator, /) -> torch.Tensor:
        """A changed copy of the batch's images, on their device."""
        plans = self.plans(batch.images.shape[-1], batch.aspects.tolist(), generator)
        if batch.images.device.type != "cpu":
            return self.with_tensors(batch.images, plans)
        self._pool = self._pool or ThreadPoolExecutor(workers())
        return torch.stack(list(self._pool.map(self.with_pillow, batch.images, plans)))

    def plans(self, side: int, aspects: Sequence[float], generator: torch.Generator) -> list[AugmentPlan]:
        """What will be done to images of these widths over heights, squashed to `side` x `side` pixels."""
        rng = random.Random(int(torch.randint(2**62, (), generator=generator)))
        state = random.getstate()  # timm's level functions draw from the module's generator: lend it ours
        try:
            return [self._plan(side, aspect, rng) for aspect in aspects]
        finally:
            random.setstate(state)

    def _plan(self, side: int, aspect: float, rng: random.Random) -> AugmentPlan:
        random.seed(rng.getrandbits(62))
        box = (0.0, 0.0, 1.0, 1.0)
        if self.crop is not None:
            box = crop_box(rng, aspect, scale=self.crop["scale"], ratio=self.crop["ratio"])
        left, top, right, bottom = box
        chosen = rng.choices(self._operations, k=self._layers) if self._layers else []
        steps = tuple(step for operation in chosen if (step := _drawn(operation, rng)))
        erased = rectangle(rng, self.size) if rng.random() < self.erase else None
        flip = rng.random() < self.flip
        return AugmentPlan((left * side, top * side, right * side, bottom * side), flip, steps, erased, rng.getrandbits(62))


def _randaugment(policy: str, size: int, fill: tuple[int, ...]) -> tuple[list[AugmentOp], int]:
    """timm's operations for a policy such as rand-m9-mstd0.5-inc1, and how many of them an image gets."""
    hyper = {"translate_const": int(0.45 * size), "img_mean": fill, "interpolation": Image.Resampling.BICUBIC}
    try:
        found = rand_augment_transform(policy, hyper)
    except (AssertionError, ValueError, IndexError, KeyError) as error:
        raise UserError(
            f"augment.policy={policy} is no RandAugment of timm ({error}); write one like rand-m9-mstd0.5-inc1"
        ) from error
    return list(found.ops), found.num_layers


def _drawn(operation: AugmentOp, rng: random.Random) -> Step | None:
    """One of timm's operations with its random choices made, so that it can be applied in any thread; None: skipped."""
    if operation.prob < 1.0 and rng.random() > operation.prob:
        return None
    magnitude = operation.magnitude
    if operation.magnitude_std > 0:
        magnitude = rng.gauss(magnitude, operation.magnitude_std)
    magnitude = max(0.0, min(magnitude, operation.magnitude_max or 10.0))
    draw: Callable[..., tuple[float, ...]] | None = operation.level_fn
    change: Any = operation.aug_fn
    arguments = draw(magnitude, operation.hparams) if draw is not None else ()
    name = operation.name.removesuffix("Increasing")

    def apply(image: Image.Image) -> Image.Image:
        if name == "Posterize" and arguments[0] < 1:
            # at the strongest level timm keeps 0 bits: black, as Pillow had it until it came to refuse the number
            return Image.new(image.mode, image.size)
        changed: Image.Image = change(image, *arguments, **operation.kwargs)
        return changed

    return Step(name, arguments, apply)
