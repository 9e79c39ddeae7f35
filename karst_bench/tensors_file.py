"""The bytes of a safetensors file: equal content gives equal bytes, so that a file's SHA-256 says what it holds."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

LENGTH = 8  # bytes that say how long the header is, little-endian: https://github.com/huggingface/safetensors#format


def to_safetensors(tensors: "Mapping[str, Tensor]", metadata: Mapping[str, str]) -> bytes:
    """The file of tensors (contiguous, no two sharing memory) and a header of texts, sorted.

    The library writes the header's texts in the order of a hash table, another one in each call.
    """
    from safetensors.torch import save

    image = save({name: tensor.detach().cpu() for name, tensor in tensors.items()}, metadata=dict(metadata))
    end = LENGTH + int.from_bytes(image[:LENGTH], "little")
    header = json.loads(image[LENGTH:end])
    header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the tensors start at a multiple of 8 bytes
    return len(text).to_bytes(LENGTH, "little") + text + image[end:]
