"""What is done at random to one training image, drawn before it is done, so that any thread or device can do it."""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image

CropBox = tuple[float, float, float, float]


@dataclass(frozen=True)
class Step:
    """One operation of RandAugment with its random choices made.

    name: timm's, without "Increasing". arguments: what timm gives to it. apply: the operation on a Pillow image.
    """

    name: str
    arguments: tuple[float, ...]
    apply: Callable[[Image.Image], Image.Image]


@dataclass(frozen=True)
class AugmentPlan:
    """box: crop (left, top, right, bottom) in pixels of the square; flip: left to right, after the crop; steps: in their
    order; erase: rectangle (top, left, height, width) that becomes noise, or None; seed: of that noise."""

    box: CropBox
    flip: bool
    steps: tuple[Step, ...]
    erase: tuple[int, int, int, int] | None
    seed: int


def crop_box(rng: random.Random, aspect: float, *, scale: Sequence[float], ratio: Sequence[float]) -> CropBox:
    """A random crop of an image of width over height `aspect`: (left, top, right, bottom), each in 0..1 of its sides.

    scale: least and greatest area over the image's; ratio: least and greatest width over height of the crop in the image's
    own proportions. Drawn as torchvision's RandomResizedCrop does: ten tries, then the largest central crop within ratio.
    """
    for _ in range(10):
        area = rng.uniform(scale[0], scale[1]) * aspect  # the image is `aspect` wide and 1 high
        proportion = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        width, height = math.sqrt(area * proportion), math.sqrt(area / proportion)
        if width <= aspect and height <= 1:
            left, top = rng.uniform(0, aspect - width), rng.uniform(0, 1 - height)
            return left / aspect, top, (left + width) / aspect, top + height
    width = min(aspect, ratio[1]) / aspect
    height = min(1.0, aspect / ratio[0])
    return (1 - width) / 2, (1 - height) / 2, (1 + width) / 2, (1 + height) / 2


def rectangle(rng: random.Random, size: int) -> tuple[int, int, int, int] | None:
    """A rectangle to erase, (top, left, height, width): 2 to 33 % of the area, ratio 0.3 to 3.3, as timm draws it."""
    for _ in range(10):
        area = rng.uniform(0.02, 1 / 3) * size * size
        ratio = math.exp(rng.uniform(math.log(0.3), math.log(1 / 0.3)))
        height, width = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if height < size and width < size:
            return rng.randint(0, size - height), rng.randint(0, size - width), height, width
    return None
