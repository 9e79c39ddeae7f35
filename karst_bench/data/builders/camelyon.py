"""PatchCamelyon: HDF5 files x (N, 96, 96, 3) and y (N, 1, 1, 1) for each of three splits, each of them gzipped."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from karst_bench.data.builders.archive import unpack_gzip
from karst_bench.data.builders.hdf5 import opened
from karst_bench.data.builders.raw import Archive, Raw, RawReader, Wanted
from karst_bench.data.sources.vtab_splits import Key
from karst_bench.errors import UserError

SITE = "https://zenodo.org/record/2546921/files/"
NAMES = {"train": "train", "validation": "valid", "test": "test"}
_KNOWN = {
    "train_x": (6421353462, "d619e741468a7ab35c7e4a75e6821b7e7e6c9411705d45708f2a0efc8960656c"),
    "train_y": (21378, "b74126d2c01b20d3661f9b46765d29cf4e4fba6faba29c8e0d09d406331ab75a"),
    "valid_x": (805965320, "f82ee1670d027b4ec388048d9eabc2186b77c009655dae76d624c0ecb053ccb2"),
    "valid_y": (3038, "ce1ae30f08feb468447971cfd0472e7becd0ad96d877c64120c72571439ae48c"),
    "test_x": (800875929, "79174c2201ad521602a5888be8f36ee10875f37403dd3f2086caf2182ef87245"),
    "test_y": (3040, "0a522005fccc8bbd04c5a117bfaf81d8da2676f03a29d7499f71d0a0bd6068ef"),
}


def _name(part: str) -> str:
    return f"camelyonpatch_level_2_split_{part}.h5"


class Camelyon(RawReader):
    """Keys: train_<n>, valid_<n>, test_<n>. Label: y."""

    archives = tuple(
        Archive(f"{_name(part)}.gz", f"{SITE}{_name(part)}.gz", size, digest, also=(_name(part),))
        for part, (size, digest) in _KNOWN.items()
    )

    def labels(self, split: str) -> dict[Key, int]:
        """{<split>_<number>: 0 or 1}."""
        name = NAMES[split]
        path = self._plain(f"{name}_y")
        with opened(path) as file:
            values = np.asarray(file["y"]).reshape(-1)
        if not np.isin(values, (0, 1)).all():
            raise UserError(f"{path}: y holds other values than 0 and 1")
        return {f"{name}_{number}": int(value) for number, value in enumerate(values)}

    def pictures(self, wanted: Wanted) -> Iterator[tuple[str, Key, Raw]]:
        """The wanted patches as arrays (96, 96, 3)."""
        for split, keys in wanted.items():
            path = self._plain(f"{NAMES[split]}_x")
            with opened(path) as file:
                images = file["x"]
                if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (96, 96, 3):
                    raise UserError(f"{path}: x is {images.dtype} {images.shape}, not uint8 (N, 96, 96, 3)")
                for number, key in sorted((int(str(key).rpartition("_")[2]), key) for key in keys):
                    yield split, key, np.asarray(images[number])

    def _plain(self, part: str) -> Path:
        """The file unpacked: HDF5 is read at random places, which gzip does not allow."""
        path = self.files[f"{_name(part)}.gz"]
        if path.suffix != ".gz":
            return path
        plain = self.scratch / _name(part)
        return plain if plain.is_file() else unpack_gzip(path, plain)
