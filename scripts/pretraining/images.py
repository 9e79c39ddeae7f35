"""CIFAR-10 as it is found on disk: the standard binary archive or folder, or JPEGs packed into two npz files."""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from karst_bench.errors import UserError

_RECORD = 1 + 3 * 32 * 32  # one label byte, then the red, green and blue planes


def read_cifar10(path: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """The images uint8 (n, 3, 32, 32) and labels int64 (n,) of `split` (train | test), decoded once.

    path: cifar-10-binary.tar.gz, its unpacked folder (data_batch_1.bin .. 5, test_batch.bin), or a folder with
    train.npz and test.npz (keys jpeg, offset, label). Raises: UserError if none of these is there.
    """
    if path.is_file() and path.name.endswith((".tar.gz", ".tgz", ".tar")):
        with tarfile.open(path) as archive:
            return _from_records(_member_bytes(archive, split), path)
    if (path / f"{split}.npz").is_file():
        return _from_packed_jpegs(path / f"{split}.npz")
    names = sorted(path.rglob("data_batch_*.bin" if split == "train" else "test_batch.bin")) if path.is_dir() else []
    if names:
        return _from_records((name.read_bytes() for name in names), path)
    raise UserError(
        f"images={path}: found neither a CIFAR-10 binary archive (.tar.gz), nor data_batch_*.bin and test_batch.bin, "
        f"nor {split}.npz there; download cifar-10-binary.tar.gz and give its path"
    )


def _member_bytes(archive: tarfile.TarFile, split: str) -> Iterator[bytes]:
    start = "data_batch_" if split == "train" else "test_batch"
    for member in sorted(archive.getmembers(), key=lambda m: m.name):
        if Path(member.name).name.startswith(start) and member.name.endswith(".bin"):
            stream = archive.extractfile(member)
            if stream is not None:
                yield stream.read()


def _from_records(blocks: Iterator[bytes], path: Path) -> tuple[np.ndarray, np.ndarray]:
    raw = np.frombuffer(b"".join(blocks), dtype=np.uint8)
    if raw.size == 0 or raw.size % _RECORD:
        raise UserError(
            f"images={path}: {raw.size} bytes are no whole number of {_RECORD}-byte records; fetch it again"
        )
    records = raw.reshape(-1, _RECORD)
    return records[:, 1:].reshape(-1, 3, 32, 32).copy(), records[:, 0].astype(np.int64)


def _from_packed_jpegs(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with np.load(path) as packed:
        stream, offset, labels = packed["jpeg"], packed["offset"], packed["label"].astype(np.int64)
    pixels = np.empty((len(labels), 3, 32, 32), dtype=np.uint8)
    for i in range(len(labels)):
        with Image.open(io.BytesIO(stream[offset[i] : offset[i + 1]].tobytes())) as image:
            pixels[i] = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    return pixels, labels
