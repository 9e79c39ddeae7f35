"""The bytes of a safetensors file: equal content gives equal bytes, so that a file's SHA-256 says what it holds; and its header,
read and checked without torch before anything of the size that it claims is allocated."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from karst_bench.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

LENGTH = 8  # bytes that say how long the header is, little-endian: https://github.com/huggingface/safetensors#format
MAX_HEADER = 16 * 1024 * 1024
ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "U16": 2, "I8": 1, "U8": 1, "BOOL": 1}


class TensorEntry(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What a header says of one tensor. dtype: safetensors' name of it; data_offsets: (first byte, one past the last)."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]

    @property
    def scalars(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class TensorsHeader:
    """What a safetensors file says of itself: texts, and the tensors by name."""

    texts: Mapping[str, str]
    tensors: Mapping[str, TensorEntry]


def to_safetensors(tensors: "Mapping[str, Tensor]", metadata: Mapping[str, str]) -> bytes:
    """The file of tensors (contiguous, no two sharing memory) and a header of texts, sorted.

    The library writes the header's texts in the order of a hash table, another one in each call.
    """
    from safetensors.torch import save

    return _sorted_texts(save({name: tensor.detach().cpu() for name, tensor in tensors.items()}, dict(metadata)), metadata)


def arrays_to_safetensors(arrays: "Mapping[str, np.ndarray]", metadata: Mapping[str, str]) -> bytes:
    """As to_safetensors, of numpy's arrays; torch is not imported."""
    from safetensors.numpy import save

    return _sorted_texts(save(dict(arrays), dict(metadata)), metadata)


def _sorted_texts(image: bytes, metadata: Mapping[str, str]) -> bytes:
    end = LENGTH + int.from_bytes(image[:LENGTH], "little")
    header = json.loads(image[LENGTH:end])
    header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the tensors start at a multiple of 8 bytes
    return len(text).to_bytes(LENGTH, "little") + text + image[end:]


def tensors_header(path: Path) -> TensorsHeader:
    """The header of a safetensors file, whose tensors fill the file to the last byte, each as long as its shape says.

    Raises: UserError naming the file and what is wrong with it.
    """
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            start = LENGTH + int.from_bytes(file.read(LENGTH), "little")
            if not LENGTH < start <= min(size, MAX_HEADER):
                raise _damaged(path, f"its first 8 bytes announce a header of {start - LENGTH} bytes in a file of {size}")
            text = file.read(start - LENGTH)
        header = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        texts = msgspec.json.decode(header.pop("__metadata__", b"{}"), type=dict[str, str])
        tensors = {name: msgspec.json.decode(raw, type=TensorEntry) for name, raw in header.items()}
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise _damaged(path, f"its header is not the JSON of the format: {str(error)[:120]}") from error
    at = 0
    for name, entry in sorted(tensors.items(), key=lambda item: item[1].data_offsets):
        if entry.dtype not in ITEM_BYTES or min(entry.shape, default=0) < 0:
            raise _damaged(path, f"{name[:80]} has dtype {entry.dtype[:20]} and shape {entry.shape[:8]}")
        begin, end = entry.data_offsets
        if begin != at or end - begin != entry.scalars * ITEM_BYTES[entry.dtype]:
            raise _damaged(path, f"{name[:80]} lies in bytes {begin} to {end}, which are not its own")
        at = end
    if start + at != size:
        raise _damaged(path, f"its tensors end at byte {start + at}, the file at {size}")
    return TensorsHeader(texts, tensors)


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(f"{path} is not a readable safetensors file: {reason}; save it again, or copy it again from its source")
