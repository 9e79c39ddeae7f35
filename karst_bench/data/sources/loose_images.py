"""Loose images for action=predict: a file or a folder of files, read as a test set's images would be."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from karst_bench import files
from karst_bench.data.decode import SUFFIXES, read_image
from karst_bench.data.resize import Resize
from karst_bench.data.task import ArraySplit
from karst_bench.errors import UserError


@dataclass(frozen=True)
class LooseImages:
    """What was read: names and split (labels 0) of the good ones, {name: reason} of the bad ones."""

    names: list[str] = field(default_factory=list)
    pixels: list[torch.Tensor] = field(default_factory=list)
    bad: dict[str, str] = field(default_factory=dict)

    @property
    def split(self) -> ArraySplit:
        """The good ones. Raises: ValueError where there are none."""
        return ArraySplit("images", torch.stack(self.pixels), torch.zeros(len(self.names), dtype=torch.int64))


def find_images_below(source: str) -> list[tuple[str, Path]]:
    """(name, path) of one image or of all below a folder, in the order of their names; of a name that is no UTF-8 the odd bytes
    as escapes. Raises: UserError if none is there."""
    path = Path(source)
    found = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not found:
        raise UserError(
            f"images={source}: no image there; give a file, or a folder with {', '.join(SUFFIXES)} files"
        )
    names = [image.name if path.is_file() else image.relative_to(path).as_posix() for image in found]
    return [(files.utf8(name), image) for name, image in zip(names, found, strict=True)]


def read_loose(found: Sequence[tuple[str, Path]], *, resize: str, size: int, white: float | None = None) -> LooseImages:
    """The images at size x size pixels. resize, white: as of the dataset the adapter was trained on (vtab | fs_test; the level of
    deep pictures that is white)."""
    shape, read = Resize(resize, size), LooseImages()
    for name, path in found:
        try:
            pixels = shape(read_image(path, white))
        except UserError as error:
            read.bad[name] = str(error).removeprefix(f"{path}: ")
            continue
        read.names.append(name)
        read.pixels.append(pixels)
    return read
