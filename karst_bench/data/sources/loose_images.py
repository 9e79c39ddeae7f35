"""Loose images for action=predict: a file or a folder of files, read as a test set's images would be."""

from pathlib import Path

import torch

from karst_bench.data.decode import read_image
from karst_bench.data.resize import Resize
from karst_bench.data.task import ArraySplit
from karst_bench.errors import UserError

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp"}


def read_images(source: str, *, resize: str, size: int) -> tuple[list[str], ArraySplit]:
    """(names, split) of one image or of all images below a folder, in the order of their names.

    resize: the geometry of the dataset the adapter was trained on (vtab | fs_test). Labels of the split are 0.
    Raises: UserError if there is no image, or naming the one that cannot be read.
    """
    path = Path(source)
    found = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not found:
        raise UserError(
            f"images={source}: no image there; give a file, or a folder with {', '.join(sorted(SUFFIXES))} files"
        )
    shape = Resize(resize, size)
    pixels = torch.stack([shape(read_image(image)) for image in found])
    names = [image.name if path.is_file() else image.relative_to(path).as_posix() for image in found]
    return names, ArraySplit("images", pixels, torch.zeros(len(found), dtype=torch.int64))
