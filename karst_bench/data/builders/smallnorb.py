"""smallNORB: six gzipped files of NORB's binary matrices: pictures dat (N, 2, 96, 96), cat (N), info (N, 4)."""

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from karst_bench.data.builders.archive import at_end, read_exactly, unzipped
from karst_bench.data.builders.raw import Archive, Raw, RawReader, Wanted
from karst_bench.data.sources.vtab_splits import Key
from karst_bench.errors import UserError

SITE = "https://cs.nyu.edu/~ylclab/data/norb-v1.0-small/"
NAMES = {
    "train": "smallnorb-5x46789x9x18x6x2x96x96-training-{}.mat.gz",
    "test": "smallnorb-5x01235x9x18x6x2x96x96-testing-{}.mat.gz",
}
TYPES: dict[int, np.dtype[Any]] = {0x1E3D4C55: np.dtype("u1"), 0x1E3D4C54: np.dtype("<i4")}
ELEVATION, AZIMUTH = 1, 2  # columns of info
LARGEST = 1 << 31  # bytes of one matrix: four times that of the pictures
_KNOWN = {
    "train": ((131896188, "5ffd6272a07d32695ee1082a26a41a93a37aab8c28da047f8c34ed348d214873"),
              (71052, "de7eb932ebe7a4ee16217fead60660d0eb3d23632c2f4d1c51f88c501c17bf32")),
    "test": ((130799817, "cf7104eed3e51174d2f65b66d1e5878b9da233b886f161b0d88f4510ba2c7474"),
             (10428, "16adf314226327ee006d1a44db8cfef52773c06c829951d5653a9f6f310248a2")),
}  # fmt: skip


def _archive(split: str, number: int) -> Archive:
    name = NAMES[split].format(("dat", "info")[number])
    size, digest = _KNOWN[split][number]
    return Archive(name, SITE + name, size, digest, also=(name.removesuffix(".gz"),))


class SmallNorb(RawReader):
    """Keys: row numbers. Label: the azimuth (0, 2, .., 34 halved) or the elevation (0..8). The left picture is used."""

    archives = tuple(_archive(split, number) for split in ("train", "test") for number in (0, 1))

    def labels(self, split: str) -> dict[Key, int]:
        """{row: label}."""
        path = self.files[NAMES[split].format("info")]
        with unzipped(path) as file:
            shape, dtype = read_header(file, path)
            if len(shape) != 2 or shape[1] != 4 or dtype.kind != "i":
                raise UserError(f"{path}: an info matrix is int32 (N, 4), this one is {dtype} {shape}")
            info = np.frombuffer(read_exactly(file, math.prod(shape) * 4, path), dtype).reshape(shape)
            at_end(file, path)
        if self.task == "smallnorb_azimuth":
            return {row: value // 2 for row, value in enumerate(info[:, AZIMUTH].tolist())}
        return dict(enumerate(info[:, ELEVATION].tolist()))

    def pictures(self, wanted: Wanted) -> Iterator[tuple[str, Key, Raw]]:
        """The wanted left pictures as arrays (96, 96)."""
        for split, keys in wanted.items():
            path, chosen = self.files[NAMES[split].format("dat")], set(keys)
            with unzipped(path) as file:
                shape, dtype = read_header(file, path)
                if shape[1:] != (2, 96, 96) or dtype.kind != "u":
                    raise UserError(f"{path}: a dat matrix is uint8 (N, 2, 96, 96), this one is {dtype} {shape}")
                for row in range(shape[0]):
                    pair = read_exactly(file, 2 * 96 * 96, path)
                    if row in chosen:
                        yield split, row, np.frombuffer(pair, np.uint8, 96 * 96).reshape(96, 96)
                at_end(file, path)


def read_header(file: IO[bytes], path: Path) -> tuple[tuple[int, ...], np.dtype]:
    """(shape, dtype) of a matrix, `file` left at its first element: magic, number of dimensions, at least three sizes.

    Raises: UserError naming the file where that is not what it begins with.
    """
    magic, count = struct.unpack("<ii", read_exactly(file, 8, path))
    if magic not in TYPES or not 1 <= count <= 8:
        raise UserError(
            f"{path}: no NORB matrix of bytes or integers (magic {magic & 0xFFFFFFFF:#x}, {count} dimensions)"
        )
    sizes = struct.unpack(f"<{max(3, count)}i", read_exactly(file, 4 * max(3, count), path))[:count]
    if min(sizes) < 1 or math.prod(sizes) * TYPES[magic].itemsize > LARGEST:
        raise UserError(f"{path}: a matrix of the sizes {sizes} cannot be meant; fetch it again")
    return sizes, TYPES[magic]
