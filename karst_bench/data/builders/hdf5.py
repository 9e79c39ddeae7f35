"""HDF5 files by h5py, which two sets need and the suite does without."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from karst_bench.errors import UserError


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The file for reading. Raises: UserError where h5py is missing or the file is damaged."""
    try:
        import h5py
    except ImportError as error:
        raise UserError(f"{path}: reading HDF5 files needs h5py; pip install 'karst_bench[data]'") from error
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise UserError(f"{path}: not the HDF5 file that its name says ({error}); fetch it again") from error
