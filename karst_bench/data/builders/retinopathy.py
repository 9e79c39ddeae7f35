"""Kaggle diabetic retinopathy (2015): pictures in train/ and test/, grades in two tables; made smaller as btgraham-300."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from karst_bench.data.builders.archive import members
from karst_bench.data.builders.raw import Archive, Raw, RawReader, Wanted, by_member, to_rgb
from karst_bench.data.builders.resample import blur, resize_linear, through_jpeg, to_uint8
from karst_bench.data.sources.vtab_splits import Key
from karst_bench.errors import UserError

RADIUS, KEPT, QUALITY = 300, 0.9, 72
USAGE = {"validation": "Public", "test": "Private"}


class Retinopathy(RawReader):
    """Keys: the picture's name (24261_left). Label: the grade, 0..4. validation: the public rows of the solution."""

    archives = (
        Archive("train.zip", also=("train",)),
        Archive("test.zip", also=("test",)),
        Archive("trainLabels.csv", also=("trainLabels.csv.zip",)),
        Archive(
            "retinopathy_solution.csv",
            "https://storage.googleapis.com/kaggle-forum-message-attachments/90528/2877/retinopathy_solution.csv",
            1181257,
            "a6af3d66804e81887da89b9261bcfb7da4f5bacedb070f1b5db83fa879ab60c9",
        ),
    )
    instructions = (
        "accept the rules at https://www.kaggle.com/c/diabetic-retinopathy-detection/data and download the parts (80 GB;"
        " check that train.zip.005 is among them), join them (cat train.zip.* > train.zip, cat test.zip.* > test.zip)"
        " or unpack them to train/ and test/, and put trainLabels.csv beside them"
    )

    def labels(self, split: str) -> dict[Key, int]:
        """{name: grade}."""
        path = self.at(2 if split == "train" else 3)
        found: dict[Key, int] = {}
        for row in csv.DictReader(io.StringIO(_text(path))):
            if split != "train" and row.get("Usage") != USAGE[split]:
                continue
            name, grade = row.get("image"), row.get("level")
            if not name or grade not in tuple("01234"):
                raise UserError(f"{path}: a row is not 'image,level' with a level of 0 to 4: {str(row)[:120]}")
            found[name] = int(grade)
        return found

    def pictures(self, wanted: Wanted) -> Iterator[tuple[str, Key, Raw]]:
        """The wanted files as they are stored."""
        for number, splits in ((0, ("train",)), (1, ("validation", "test"))):
            names = {f"{key}.jpeg": (split, key) for split in splits for key in wanted.get(split, ())}
            if names:
                yield from by_member(
                    self.at(number), names, "" if self.at(number).is_dir() else ("train/", "test/")[number]
                )

    def decode(self, stored: Raw) -> Image.Image:
        """The processed picture, about 540 x 540."""
        assert isinstance(stored, bytes)
        with Image.open(io.BytesIO(stored)) as image:
            return through_jpeg(Image.fromarray(btgraham(np.asarray(to_rgb(image).convert("RGB")))), QUALITY)


def btgraham(image: np.ndarray) -> np.ndarray:
    """The processing of the competition's winner (B. Graham), uint8 (h, w, 3) to a square of 2 * 0.9 * 300 pixels.

    The eye's radius is half the number of pixels of the middle row brighter than a tenth of its mean; it becomes 300
    pixels. Then 4 * image - 4 * blurred + 128, sigma 10, and grey outside of 0.9 of the radius.
    """
    row = image[image.shape[0] // 2].sum(axis=1, dtype=np.int64)
    radius = float((row > row.mean() / 10).sum()) / 2
    if radius < 1:  # a few pictures are almost black
        radius = image.shape[0] / 2
    scaled = resize_linear(image, RADIUS / radius)
    local = 4.0 * scaled - 4.0 * blur(scaled, RADIUS / 30) + 128
    return _mask(to_uint8(local))


def _mask(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    keep = int(RADIUS * KEPT)
    middle_y, middle_x = height // 2, width // 2
    y, x = np.ogrid[:height, :width]
    inside = (y - middle_y) ** 2 + (x - middle_x) ** 2 <= keep**2
    grey = np.where(inside[..., None], image, np.uint8(128))
    top, left = max(0, middle_y - keep), max(0, middle_x - keep)
    return np.ascontiguousarray(grey[top : middle_y + keep, left : middle_x + keep])


def _text(path: Path) -> str:
    if path.suffix == ".zip":
        return next(member.read() for member in members(path)).decode("utf-8", "replace")
    return path.read_text("utf-8", "replace")
