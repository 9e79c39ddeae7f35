"""The readers of binary formats by themselves: known values, and 2000 damaged inputs each."""

import gzip
import io
import math
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from originals import example, masked, matrix, tfrecord

from karst_bench.data.builders import tfrecord as reading
from karst_bench.data.builders.cifar100 import Cifar100
from karst_bench.data.builders.resample import blur, resize_linear
from karst_bench.data.builders.retinopathy import btgraham
from karst_bench.data.builders.smallnorb import SmallNorb, read_header
from karst_bench.data.builders.tfrecord import crc32c, records
from karst_bench.data.sources.parquet import ParquetTable, split_files
from karst_bench.data.sources.parquet_places import Snapshot
from karst_bench.errors import UserError

CASES = 2000


def test_crc_of_the_standard() -> None:
    """RFC 3720, B.4, and the check value of the catalogue of CRCs."""
    known = {bytes(32): 0x8A9136AA, b"\xff" * 32: 0x62A8AB43, bytes(range(32)): 0x46DD794E, b"123456789": 0xE3069283}
    assert {data: crc32c(data) for data in known} == known


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 10000])
def test_crc_side_by_side_is_the_crc_bit_by_bit(size: int) -> None:
    import originals

    data = np.random.default_rng(size).bytes(size)
    assert crc32c(data) == originals.crc32c(data)


def test_an_example_of_tensorflow_datasets(tmp_path: Path) -> None:
    """Serialised by their writer, which packs integers; ours in the test does not."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import example_serializer

    info = {"image": (np.object_, b"\x00jpeg"), "filename": (np.object_, b"video_1.jpg"), "label": (np.int64, 5)}
    specs = {name: tfds.features.TensorInfo(shape=(), dtype=dtype) for name, (dtype, _) in info.items()}
    serializer = example_serializer.ExampleSerializer(specs)
    data = serializer.serialize_example({name: value for name, (_, value) in info.items()})
    expected = {"image": [b"\x00jpeg"], "filename": [b"video_1.jpg"], "label": [5]}
    assert reading.example(data) == expected == reading.example(example(b"\x00jpeg", "video_1.jpg", 5))


def test_negative_and_float_features() -> None:
    floats = struct.pack("<2f", 0.5, -2)
    negative = b"\xff" * 9 + b"\x01"

    def feature(kind: int, inner: bytes) -> bytes:
        value = bytes([kind << 3 | 2, len(inner)]) + inner
        entry = b"\x0a\x01a\x12" + bytes([len(value)]) + value
        entry = b"\x0a" + bytes([len(entry)]) + entry
        return b"\x0a" + bytes([len(entry)]) + entry

    assert reading.example(feature(2, b"\x0a\x08" + floats)) == {"a": [0.5, -2.0]}
    assert reading.example(feature(3, b"\x08" + negative)) == {"a": [-1]}
    for broken in (b"\x0b", b"\x0a\x05abc", b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", b"\x0e"):
        with pytest.raises(ValueError, match=r"wire type|beyond the end|without an end"):
            reading.example(broken)


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """Cut, bits turned, bytes overwritten, a block removed or doubled."""
    kind, at = int(rng.integers(5)), int(rng.integers(len(data)))
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + bytes([data[at] ^ 1 << int(rng.integers(8))]) + data[at + 1 :]
    if kind == 2:
        return data[:at] + rng.bytes(8) + data[at + 8 :]
    block = int(rng.integers(1, 64))
    return data[:at] + data[at + block :] if kind == 3 else data[: at + block] + data[at:]


def survives(read: Callable[[bytes], object], data: bytes, seed: int, cases: int = CASES) -> int:
    """Read 2000 damaged copies: each is read or refused by a UserError that names the file; how many were refused."""
    rng, refused = np.random.default_rng(seed), 0
    for _ in range(cases):
        try:
            read(damaged(data, rng))
        except UserError as error:
            assert "file.bin" in str(error)
            refused += 1
    return refused


def test_fuzz_tfrecord() -> None:
    """Whatever passes is a whole number of true records: a checksum lets nothing else through."""
    true = [example(np.random.default_rng(n).bytes(40), f"video_{n}.jpg", n) for n in range(4)]
    data = b"".join(map(tfrecord, true))

    def read(changed: bytes) -> None:
        for payload in records(io.BytesIO(changed), Path("file.bin")):
            assert payload in true

    assert survives(read, data, 1) > CASES * 0.9


def test_fuzz_examples_with_right_checksums() -> None:
    """The parser behind the checksums: refused as a ValueError, or some features."""
    rng, data = np.random.default_rng(2), example(b"x" * 40, "video_1.jpg", 3)
    for _ in range(CASES):
        try:
            found = reading.example(damaged(data, rng))
        except (ValueError, struct.error, OverflowError) as error:
            assert isinstance(error, ValueError), error
        else:
            assert isinstance(found, dict)


@pytest.mark.parametrize("cases", [100, pytest.param(CASES, marks=pytest.mark.slow)])
def test_fuzz_norb(cases: int, tmp_path: Path) -> None:
    info = matrix(np.arange(80, dtype="<i4").reshape(20, 4))
    path = tmp_path / "file.bin"
    names = [archive.name for archive in SmallNorb.archives]

    def read(changed: bytes) -> None:
        path.write_bytes(changed)
        SmallNorb(dict.fromkeys(names, path), "smallnorb_elevation", tmp_path).labels("train")

    assert survives(read, info, 3, cases) > cases * 0.2
    # the same through gzip, whose own checksum lets almost nothing pass
    assert survives(read, gzip.compress(info), 4, cases // 3) > cases // 3 * 0.8
    for sizes in ((1 << 30, 4), (-1, 4), (0, 4)):
        with pytest.raises(UserError, match="cannot be meant"):
            read_header(io.BytesIO(struct.pack("<ii3i", 0x1E3D4C54, 2, *sizes, 1)), path)


@pytest.mark.parametrize("cases", [100, pytest.param(CASES, marks=pytest.mark.slow)])
def test_fuzz_cifar(cases: int, tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    with tarfile.open(path, "w") as archive:
        for name in ("train.bin", "test.bin"):
            info = tarfile.TarInfo(f"cifar-100-binary/{name}")
            info.size = 3074 * 2
            archive.addfile(info, io.BytesIO(bytes([1, 5]) + bytes(3072) + bytes([2, 99]) + bytes(3072)))
    data = path.read_bytes()

    def read(changed: bytes) -> None:
        path.write_bytes(changed)
        labels = Cifar100({Cifar100.archives[0].name: path}, "cifar100", tmp_path).labels("train")
        assert all(0 <= label < 100 for label in labels.values())

    assert survives(read, data[:-9000], 5, cases) > cases * 0.2  # the zeros at the end of a tar mean nothing


@pytest.mark.parametrize("cases", [100, pytest.param(CASES, marks=pytest.mark.slow)])
def test_fuzz_parquet(cases: int, tmp_path: Path) -> None:
    folder = tmp_path / "file.bin"
    folder.mkdir()
    path = folder / "train800-00000-of-00001.parquet"
    rows = {"image": [{"bytes": bytes([n]) * 50, "path": f"{n}.png"} for n in range(20)], "label": list(range(20))}
    pq.write_table(pa.table(rows), path, row_group_size=10, write_page_checksum=True)
    data = path.read_bytes()
    snapshot = Snapshot(folder, "", "", "image", "label")

    def read(changed: bytes) -> None:
        path.write_bytes(changed)
        table = ParquetTable(split_files(snapshot)["train800"], snapshot)
        table.labels()
        for row in range(len(table)):
            table.picture(row)

    assert survives(read, data, 6, cases) > cases * 0.5


def test_btgraham_at_an_edge_by_the_error_function() -> None:
    """An eye of 300 pixels' radius keeps its size; beside an edge of height 10 a Gaussian of sigma 10 is 10 Phi(x / 10).
    What is blurred has whole levels, so four times a half is the error."""
    image = np.full((600, 600, 3), 100, np.uint8)
    image[:, 300:] = 110
    row = btgraham(image)[270, :, 0].astype(int)
    assert row.shape == (540,) and row[100] == row[-100] == 128
    for x in (0.5, 4.5, 9.5, 19.5):
        expected = 128 + 4 * 10 * (0.5 - 0.5 * math.erf(x / 10 / math.sqrt(2)))
        assert abs(row[270 + int(x)] - expected) < 2.6 and abs(row[269 - int(x)] - (256 - expected)) < 2.6


def test_resampling_by_hand() -> None:
    """Half the size of two equal halves keeps them; a line doubled lies between its neighbours, edges repeated."""
    line = np.array([[[0], [100]]], np.uint8).repeat(3, axis=2)
    assert resize_linear(line, 2.0)[0, :, 0].tolist() == [0, 25, 75, 100]
    assert resize_linear(np.array([[[0], [10], [20], [30]]] * 4, np.uint8), 0.5)[0, :, 0].tolist() == [5, 25]
    flat = np.full((30, 40, 3), 77, np.uint8)
    assert (blur(flat, 3.0) == 77).all()
    spot = np.zeros((61, 61, 1), np.uint8)
    spot[30, 30] = 255
    # the middle of a Gaussian of sigma 1 is 1 / (2 pi), of 255
    assert abs(int(blur(spot, 1.0)[30, 30, 0]) - 255 / (2 * np.pi)) < 1


def test_resampling_is_opencv_s() -> None:
    """To one grey level, where OpenCV is installed (it computes in fixed point)."""
    cv2 = pytest.importorskip("cv2", reason="OpenCV is the oracle here, and no dependency")
    image = cv2.resize(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8), (300, 200))
    for factor in (0.37, 0.8, 1.7):
        there = cv2.resize(image, None, fx=factor, fy=factor).astype(int)
        assert np.abs(resize_linear(image, factor) - there).max() <= 1
    assert np.abs(blur(image, 10.0) - cv2.GaussianBlur(image, (0, 0), 10).astype(int)).max() <= 1


def test_checksums_of_lengths_are_never_skipped() -> None:
    wrong = struct.pack("<Q", 5) + b"\0\0\0\0" + b"hello" + masked(b"hello")
    for data, said in ((wrong, "begin with a length"), (tfrecord(b"hello")[:-6], "cut short"), (b"abc", "cut short")):
        with pytest.raises(UserError, match=said):
            list(records(io.BytesIO(data), Path("x"), check=False))
    flipped = tfrecord(b"hello")[:-4] + b"\0\0\0\0"
    assert list(records(io.BytesIO(flipped), Path("x"), check=False)) == [b"hello"]
    with pytest.raises(UserError, match="differs from its checksum"):
        list(records(io.BytesIO(flipped), Path("x")))
