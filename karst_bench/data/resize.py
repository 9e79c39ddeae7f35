"""From a decoded image to the network's input, by name; and the one normalisation knob.

vtab: squashed to (size, size), bicubic and antialiased, no crop, no flip: the rule of every VTAB-1K paper since NOAH.
fs_test: squashed to 256/224 of the size, then the central crop. fs_train: squashed to a larger square (augment.canvas
times the size), to be cropped at random.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as geometry

from karst_bench.errors import UserError

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
NORMALISATIONS = ("model", "half", "imagenet", "none")

_Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Resize:
    """A named, deterministic geometry: uint8 (..., 3, h, w) -> uint8 (..., 3, side, side).

    name: vtab | fs_test | fs_train. size: the network's input in pixels. canvas: side of an fs_train square over it.
    """

    name: str
    size: int
    canvas: float = 1.0

    def __post_init__(self) -> None:
        if self.name not in ("vtab", "fs_test", "fs_train"):
            raise UserError(f"transform {self.name!r} is not known; choose vtab, fs_test or fs_train")

    @property
    def side(self) -> int:
        """Height and width of what comes out."""
        return round(self.canvas * self.size) if self.name == "fs_train" else self.size

    @property
    def spec(self) -> str:
        """All that changes the pixels, for cache keys and records."""
        return f"{self.name}/{self.side}/bicubic-antialias"

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 (..., 3, h, w) -> uint8 (..., 3, side, side)."""
        if self.name != "fs_test":
            return _squash(images, self.side)
        centre: torch.Tensor = geometry.center_crop(_squash(images, round(self.size * 256 / 224)), [self.size, self.size])
        return centre


def _squash(images: torch.Tensor, side: int) -> torch.Tensor:
    if images.shape[-2:] == (side, side):
        return images
    square: torch.Tensor = geometry.resize(
        images, [side, side], interpolation=InterpolationMode.BICUBIC, antialias=True
    )
    return square


def normalisation(name: str, model_mean: Sequence[float], model_std: Sequence[float]) -> tuple[_Triple, _Triple]:
    """(mean, std) per channel in 0..1 for `normalization=`: model | half (0.5, 0.5) | imagenet | none (0, 1).

    model_mean, model_std: the backbone's own. Raises: UserError for another name.
    """
    if name == "model":
        return _triple(model_mean), _triple(model_std)
    if name == "half":
        return (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    if name == "imagenet":
        return IMAGENET
    if name == "none":
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    raise UserError(f"normalization={name} is not known; choose one of {', '.join(NORMALISATIONS)}")


def _triple(values: Sequence[float]) -> _Triple:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
