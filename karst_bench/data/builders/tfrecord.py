"""TFRecord files without TensorFlow: records with masked CRC-32C, and the tf.train.Example in each."""

import struct
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import IO

import numpy as np

from karst_bench.data.builders.archive import read_exactly
from karst_bench.errors import UserError

RECORD = 64 << 20
POLYNOMIAL = 0x82F63B78  # Castagnoli, reflected (RFC 3720)
CHUNK = 64
Feature = list[bytes] | list[int] | list[float]


def records(file: IO[bytes], path: Path, *, check: bool = True) -> Iterator[bytes]:
    """The payloads of one file: [uint64 length][crc of it][payload][crc of it], little-endian.

    check: compare the payloads' checksums too; the lengths' always are.
    Raises: UserError naming the file for a bad checksum, an impossible length or a cut record.
    """
    number = 0
    while head := file.read(12):
        if len(head) < 12:
            raise UserError(f"{path}: record {number} is cut short; fetch it again")
        length, length_crc = struct.unpack("<QI", head)
        if masked_crc32c(head[:8]) != length_crc or length > RECORD:
            raise UserError(f"{path}: record {number} does not begin with a length and its checksum; fetch it again")
        body = read_exactly(file, length + 4, path)
        data = body[:-4]
        if check and masked_crc32c(data) != int.from_bytes(body[-4:], "little"):
            raise UserError(f"{path}: record {number} differs from its checksum; fetch it again")
        yield data
        number += 1


def masked_crc32c(data: bytes) -> int:
    """((c >> 15) | (c << 17)) + 0xa282ead8 of c = CRC-32C, modulo 2^32."""
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli, RFC 3720) of `data`.

    Long data are cut into pieces of CHUNK bytes that go through the table side by side; as the CRC is linear, that of two
    pieces is the first one's moved past the length of the second, plus (xor) the second one's.
    """
    whole = len(data) // CHUNK
    if whole < 8:
        return _tail(0xFFFFFFFF, data) ^ 0xFFFFFFFF
    table = _table()
    columns = np.frombuffer(data, np.uint8, count=whole * CHUNK).reshape(whole, CHUNK).T.astype(np.uint32, order="C")
    pieces = np.zeros(1 << (whole - 1).bit_length(), np.uint32)
    state = pieces[len(pieces) - whole :]  # what stands before it is a register of zeros, which zeros leave as it is
    state[0] = 0xFFFFFFFF
    for column in columns:
        state[:] = table[(state ^ column) & 0xFF] ^ (state >> 8)
    length = CHUNK
    while len(pieces) > 1:
        pieces = _moved(pieces[0::2], length) ^ pieces[1::2]
        length *= 2
    return _tail(int(pieces[0]), data[whole * CHUNK :]) ^ 0xFFFFFFFF


def _tail(crc: int, data: bytes) -> int:
    table = _table_list()
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc


@cache
def _table() -> np.ndarray:
    value = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        value = np.where(value & 1, (value >> 1) ^ np.uint32(POLYNOMIAL), value >> 1)
    return value


@cache
def _table_list() -> list[int]:
    return [int(value) for value in _table()]


def _moved(state: np.ndarray, length: int) -> np.ndarray:
    """The registers after `length` zero bytes."""
    first, second, third, fourth = _tables(length)
    found: np.ndarray = (
        first[state & 0xFF] ^ second[state >> 8 & 0xFF] ^ third[state >> 16 & 0xFF] ^ fourth[state >> 24]
    )
    return found


@cache
def _tables(length: int) -> tuple[np.ndarray, ...]:
    """Where `length` zero bytes take each value of a register's four bytes: the matrix of one byte to that power."""
    result = [1 << bit for bit in range(32)]
    power = [_tail(1 << bit, b"\0") for bit in range(32)]
    while length:
        if length & 1:
            result = [_apply(power, column) for column in result]
        power = [_apply(power, column) for column in power]
        length >>= 1
    return tuple(
        np.array([_apply(result, value << shift) for value in range(256)], np.uint32) for shift in (0, 8, 16, 24)
    )


def _apply(matrix: list[int], vector: int) -> int:
    out = 0
    for bit in range(32):
        if vector >> bit & 1:
            out ^= matrix[bit]
    return out


def example(data: bytes) -> dict[str, Feature]:
    """The features of a serialised tf.train.Example. Raises: ValueError where it is none."""
    found: dict[str, Feature] = {}
    for number, features in _fields(data):
        if number != 1 or not isinstance(features, bytes):
            continue
        for entry_number, entry in _fields(features):
            if entry_number != 1 or not isinstance(entry, bytes):
                continue
            parts = dict(_fields(entry))
            name, value = parts.get(1, b""), parts.get(2, b"")
            if not isinstance(name, bytes) or not isinstance(value, bytes):
                raise ValueError("a feature without name or value")
            found[name.decode()] = _feature(value)
    return found


def _feature(data: bytes) -> Feature:
    """The list in a tf.train.Feature: field 1 bytes, 2 floats (packed), 3 integers (packed or not)."""
    for kind, inner in _fields(data):
        if not isinstance(inner, bytes):
            raise ValueError("a feature that is no list")
        values = [value for number, value in _fields(inner) if number == 1]
        if kind == 1:
            return [value for value in values if isinstance(value, bytes)]
        if kind == 2:
            joined = b"".join(value for value in values if isinstance(value, bytes))
            return [float(value) for (value,) in struct.iter_unpack("<f", joined[: len(joined) // 4 * 4])]
        integers: list[int] = []
        for value in values:
            integers += [value] if isinstance(value, int) else _varints(value)
        return [value - (1 << 64) if value >> 63 else value for value in integers]
    return []


def _fields(data: bytes) -> Iterator[tuple[int, bytes | int]]:
    """(number, value) of a protobuf message: a varint as int, everything else as bytes."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind, number = tag & 7, tag >> 3
        if kind == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if kind == 2:
            length, at = _varint(data, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if at + length > len(data):
            raise ValueError("a field beyond the end")
        yield number, data[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
    raise ValueError("a number without an end")


def _varints(data: bytes) -> list[int]:
    found, at = [], 0
    while at < len(data):
        value, at = _varint(data, at)
        found.append(value)
    return found
