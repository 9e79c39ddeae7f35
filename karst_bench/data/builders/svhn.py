"""SVHN, cropped digits: MATLAB files with X (32, 32, 3, N) and y (N, 1), 10 standing for the digit 0."""

from collections.abc import Iterator

import numpy as np

from karst_bench.data.builders.matlab import read_mat
from karst_bench.data.builders.raw import Archive, Raw, RawReader, Wanted
from karst_bench.data.sources.vtab_splits import Key
from karst_bench.errors import UserError

SITE = "http://ufldl.stanford.edu/housenumbers/"


class Svhn(RawReader):
    """Keys: the picture's number in its file. Label: y mod 10."""

    archives = (
        Archive("train_32x32.mat", SITE + "train_32x32.mat", 182040794,
                "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8"),
        Archive("test_32x32.mat", SITE + "test_32x32.mat", 64275384,
                "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b"),
    )  # fmt: skip

    def labels(self, split: str) -> dict[Key, int]:
        """{number of the picture: digit}."""
        path = self.at(("train", "test").index(split))
        digits = read_mat(path, "y").reshape(-1)
        if digits.dtype.kind not in "iuf" or not np.isin(digits, range(1, 11)).all():
            raise UserError(f"{path}: y must hold the numbers 1 to 10; is it train_32x32.mat or test_32x32.mat?")
        return {number: int(digit) % 10 for number, digit in enumerate(digits)}

    def pictures(self, wanted: Wanted) -> Iterator[tuple[str, Key, Raw]]:
        """The wanted pictures as arrays (32, 32, 3)."""
        for split, keys in wanted.items():
            path = self.at(("train", "test").index(split))
            images = read_mat(path, "X")
            if images.dtype != np.uint8 or images.ndim != 4 or images.shape[:3] != (32, 32, 3):
                raise UserError(f"{path}: X is {images.dtype} {images.shape}, not uint8 (32, 32, 3, N)")
            for key in sorted(int(number) for number in keys):
                if key >= images.shape[3]:
                    raise UserError(f"{path}: y has more entries than X has pictures ({images.shape[3]})")
                yield split, key, np.ascontiguousarray(images[..., key])
