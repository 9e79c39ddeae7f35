"""dSprites: 737,280 sprites of 64 x 64 zeros and ones, with their latent classes, in an .npz or .hdf5 file."""

import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from karst_bench.data.builders.archive import at_end, read_exactly, refused
from karst_bench.data.builders.hdf5 import opened
from karst_bench.data.builders.raw import Archive, Raw, RawReader, Wanted
from karst_bench.data.sources.vtab_labels import rule
from karst_bench.data.sources.vtab_splits import Key
from karst_bench.errors import UserError

NAME = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64"
FIELDS = {"label_orientation": 3, "label_x_position": 4}
ROWS = 4096


class Dsprites(RawReader):
    """Keys: row numbers. Label: the x position or the orientation, in 16 classes. Ones become 255."""

    archives = (
        Archive(
            f"{NAME}.npz",
            f"https://raw.githubusercontent.com/google-deepmind/dsprites-dataset/master/{NAME}.npz",
            also=(f"{NAME}.hdf5",),
        ),
    )

    def labels(self, split: str) -> dict[Key, int]:
        """{row: label}."""
        label, path = rule(self.task), self.at(0)
        if path.suffix == ".npz":
            with _array(path, "latents_classes") as (file, shape, dtype):
                data = read_exactly(file, math.prod(shape) * dtype.itemsize, path)
                classes = np.frombuffer(data, dtype).reshape(shape)
                at_end(file, path)
        else:
            with opened(path) as file:
                classes = np.asarray(file["latents/classes"])
        if classes.ndim != 2 or classes.shape[1] != 6:
            raise UserError(f"{path}: the latent classes are {classes.shape}, not (N, 6)")
        known = {int(value): None for value in np.unique(classes[:, list(FIELDS.values())])}
        found = {value: label(dict.fromkeys(FIELDS, value)) for value in known}
        column = FIELDS["label_x_position" if self.task == "dsprites_location" else "label_orientation"]
        return {row: found[value] for row, value in enumerate(classes[:, column].tolist())}

    def pictures(self, wanted: Wanted) -> Iterator[tuple[str, Key, Raw]]:
        """The wanted rows as arrays (64, 64) of 0 and 255, read in blocks."""
        keys = sorted(int(key) for key in wanted.get("train", ()))
        for start, block in self._blocks():
            while keys and keys[0] < start + len(block):
                key = keys.pop(0)
                yield "train", key, (block[key - start] > 0).astype(np.uint8) * np.uint8(255)

    def _blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        path = self.at(0)
        if path.suffix == ".npz":
            with _array(path, "imgs") as (file, shape, dtype):
                _check_images(path, shape, dtype)
                for start in range(0, shape[0], ROWS):
                    count = min(ROWS, shape[0] - start)
                    data = read_exactly(file, count * 4096, path)
                    yield start, np.frombuffer(data, np.uint8).reshape(count, 64, 64)
                at_end(file, path)
        else:
            with opened(path) as found:
                images = found["imgs"]
                _check_images(path, images.shape, images.dtype)
                for start in range(0, len(images), ROWS):
                    yield start, np.asarray(images[start : start + ROWS])


def _check_images(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> None:
    if dtype != np.uint8 or len(shape) != 3 or shape[1:] != (64, 64):
        raise UserError(f"{path}: imgs is {dtype} {shape}, not uint8 (N, 64, 64)")


@contextmanager
def _array(path: Path, name: str) -> Iterator[tuple[IO[bytes], tuple[int, ...], np.dtype]]:
    """An array of an .npz as a stream: (file at its first element, shape, dtype). Pickled arrays are not read."""
    with refused(path), zipfile.ZipFile(path) as archive:
        if f"{name}.npy" not in archive.namelist():
            raise UserError(f"{path}: holds no {name}.npy; is it the file that its name says?")
        with archive.open(f"{name}.npy") as file:
            version = np.lib.format.read_magic(file)
            read_header = (
                np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            )
            shape, fortran, dtype = read_header(file)
            if dtype.hasobject or fortran:
                raise UserError(f"{path}: {name} is a pickle or in Fortran order; neither is read")
            yield file, shape, dtype
