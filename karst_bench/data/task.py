"""What the data side hands to the pipeline: a task and its decoded splits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch


class Split:
    """A decoded, labelled set of images of one size.

    Attributes: name (train800 | val200 | train800val200 | train | val | test); labels (n,) int64.
    Subclasses say where the pixels lie: in memory (ArraySplit) or memory-mapped.
    """

    name: str
    labels: torch.Tensor

    def images(self, index: torch.Tensor) -> torch.Tensor:
        """The images at `index` (b,) int64: uint8 (b, 3, H, W), a copy that the caller may change."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.labels)


class ArraySplit(Split):
    """A split held in memory: pixels uint8 (n, 3, H, W), labels int64 (n,).

    Raises: ValueError if the shapes or types do not fit together.
    """

    def __init__(self, name: str, pixels: torch.Tensor, labels: torch.Tensor) -> None:
        if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[1] != 3:
            raise ValueError(
                f"split {name}: pixels must be uint8 (n, 3, H, W), got {pixels.dtype} {tuple(pixels.shape)};"
                " convert grey images to RGB and move the channels first"
            )
        if labels.dtype != torch.int64 or labels.shape != pixels.shape[:1]:
            raise ValueError(
                f"split {name}: labels must be int64 ({len(pixels)},), got {labels.dtype} {tuple(labels.shape)};"
                " give one class index per image"
            )
        self.name = name
        self.labels = labels
        self.pixels = pixels

    def images(self, index: torch.Tensor) -> torch.Tensor:
        """The images at `index`: uint8 (b, 3, H, W)."""
        return self.pixels[index]


class JoinedSplit(Split):
    """Several splits read one after the other, without a copy (train800val200 = train800 then val200)."""

    def __init__(self, name: str, parts: tuple[Split, ...]) -> None:
        if not parts:
            raise ValueError(f"split {name}: nothing to join; give at least one part")
        self.name = name
        self.parts = parts
        self.labels = torch.cat([part.labels for part in parts])
        sizes = torch.tensor([len(part) for part in parts])
        self._starts = sizes.cumsum(0) - sizes

    def images(self, index: torch.Tensor) -> torch.Tensor:
        """The images at `index`, counted through all parts: uint8 (b, 3, H, W)."""
        which = torch.searchsorted(self._starts, index, right=True) - 1
        out: torch.Tensor | None = None
        for number, part in enumerate(self.parts):
            here = (which == number).nonzero().squeeze(1)
            if len(here) == 0:
                continue
            pixels = part.images(index[here] - self._starts[number])
            if out is None:
                out = pixels.new_empty((len(index), *pixels.shape[1:]))
            out[here] = pixels
        return self.parts[0].images(index) if out is None else out


@dataclass(frozen=True)
class Task:
    """One classification task, as the pipeline gets it.

    name: the option's path ("mini/digits"). classes: their number. splits: decoded when asked for; keys train800,
    val200, train800val200, test (vtab, mini) or train, val, test (few-shot). list_sha256: hash over the split lists, or
    over what was generated. encoding: png | jpeg75 | native | generated. source: folder | tfds | mini. own_split: the
    lists were drawn here and are not the published ones. notes: what a reader of the record should know.
    """

    name: str
    classes: int
    splits: Mapping[str, Split]
    list_sha256: str
    encoding: str
    source: str
    own_split: bool = False
    notes: tuple[str, ...] = ()


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
