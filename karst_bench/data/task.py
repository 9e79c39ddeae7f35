"""What the data side hands to the pipeline: a task, its decoded splits, and batches of their images."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class ImageBatch:
    """Decoded images of one size, and what squashing to that size hides.

    images: uint8 (b, 3, H, W), on any device. aspects: float32 (b,), the width over the height that each image has in its
    file; they stay on the CPU, where random crops are drawn.
    """

    images: torch.Tensor
    aspects: torch.Tensor

    def __len__(self) -> int:
        return len(self.aspects)

    def to(self, device: torch.device) -> "ImageBatch":
        """The same batch with its images on a device."""
        return ImageBatch(self.images.to(device, non_blocking=True), self.aspects)


class Split:
    """A decoded, labelled set of images of one size.

    Attributes: name (train800 | val200 | train800val200 | train | val | test); labels (n,) int64.
    Subclasses say where the images lie: in memory (ArraySplit), memory-mapped, or still in their files.
    """

    name: str
    labels: torch.Tensor

    def read(self, index: torch.Tensor) -> ImageBatch:
        """The images at `index` (b,) int64: a copy that the caller may change."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.labels)


class ArraySplit(Split):
    """A split held in memory: images uint8 (n, 3, H, W), labels int64 (n,), aspects float32 (n,), ones if not given.

    Raises: ValueError if the shapes or types do not fit together.
    """

    def __init__(
        self, name: str, images: torch.Tensor, labels: torch.Tensor, aspects: torch.Tensor | None = None
    ) -> None:
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(
                f"split {name}: images must be uint8 (n, 3, H, W), got {images.dtype} {tuple(images.shape)};"
                " convert grey images to RGB and move the channels first"
            )
        if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            raise ValueError(
                f"split {name}: labels must be int64 ({len(images)},), got {labels.dtype} {tuple(labels.shape)};"
                " give one class index per image"
            )
        aspects = torch.ones(len(images)) if aspects is None else aspects
        if aspects.dtype != torch.float32 or aspects.shape != labels.shape:
            raise ValueError(
                f"split {name}: aspects must be float32 ({len(images)},), got {aspects.dtype} {tuple(aspects.shape)};"
                " give one width over height per image"
            )
        self.name = name
        self.labels = labels
        self._images = images
        self._aspects = aspects

    def read(self, index: torch.Tensor) -> ImageBatch:
        """The images at `index` (b,) int64: a copy."""
        return ImageBatch(self._images[index], self._aspects[index])


class JoinedSplit(Split):
    """Several splits read one after the other, without a copy (train800val200 = train800 then val200).

    Raises: ValueError if there is nothing to join.
    """

    def __init__(self, name: str, parts: tuple[Split, ...]) -> None:
        if not parts:
            raise ValueError(f"split {name}: nothing to join; give at least one part")
        self.name = name
        self.parts = parts
        self.labels = torch.cat([part.labels for part in parts])
        sizes = torch.tensor([len(part) for part in parts])
        self._starts = sizes.cumsum(0) - sizes

    def read(self, index: torch.Tensor) -> ImageBatch:
        """The images at `index` (b,) int64, counted through all parts: a copy."""
        which = torch.searchsorted(self._starts, index, right=True) - 1
        out: ImageBatch | None = None
        for number, part in enumerate(self.parts):
            here = (which == number).nonzero().squeeze(1)
            if len(here) == 0:
                continue
            found = part.read(index[here] - self._starts[number])
            if out is None:
                shape = (len(index), *found.images.shape[1:])
                out = ImageBatch(found.images.new_empty(shape), torch.empty(len(index)))
            out.images[here] = found.images
            out.aspects[here] = found.aspects
        return self.parts[0].read(index) if out is None else out


@dataclass(frozen=True)
class Task:
    """One classification task, as the pipeline gets it.

    name: the option's path ("mini/digits"). classes: their number. splits: decoded when asked for; keys train800,
    val200, train800val200, test (vtab, mini) or train, val, test (few-shot). list_sha256: hash over the split lists, or
    over what was generated. encoding: png | jpeg75 | native | generated. source: folder | own | tfds | hf | mini. own_split: the
    lists were drawn here and are not the published ones. notes: what a reader of the record should know. files: the small
    files that decide which images these are (lists, or the code that draws them). images: the files of all pictures;
    images_sha256: over their bytes; images_in_id: whether that is part of a run's id, as it is where no published lists say
    which pictures these are.
    """

    name: str
    classes: int
    splits: Mapping[str, Split]
    list_sha256: str
    encoding: str
    source: str
    own_split: bool = False
    notes: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    images: tuple[Path, ...] = ()
    images_sha256: str | None = None
    images_in_id: bool = False

    @property
    def pixels_sha256(self) -> str | None:
        """What of the pictures enters a run's id."""
        return self.images_sha256 if self.images_in_id else None


class LazySplits(Mapping[str, Split]):
    """Splits that are decoded when first asked for: name -> function without arguments."""

    def __init__(self, makers: Mapping[str, Callable[[], Split]]) -> None:
        self._makers = dict(makers)
        self._made: dict[str, Split] = {}

    def __getitem__(self, name: str) -> Split:
        if name not in self._made:
            self._made[name] = self._makers[name]()
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)
