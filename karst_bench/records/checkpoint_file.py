"""A run's state on disk: one safetensors file, tensors in its body, the rest as JSON in its header, SHA-256 over both.

Nothing is pickled: a checkpoint from anywhere can be opened. A damaged one is told apart, down to a single bit.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from karst_bench.errors import CheckpointError
from karst_bench.tensors_file import to_safetensors

META, CHECKSUM = "karst_bench.meta", "karst_bench.sha256"


def _checksum(tensors: Mapping[str, Tensor], meta: str) -> str:
    digest = hashlib.sha256(meta.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def to_bytes(tensors: Mapping[str, Tensor], meta: Mapping[str, object]) -> bytes:
    """The file of a state. tensors: on the CPU, contiguous, no two sharing memory. Raises: TypeError where meta is not JSON."""
    text = json.dumps(meta)
    return to_safetensors(tensors, {META: text, CHECKSUM: _checksum(tensors, text)})


def from_file(path: Path) -> tuple[dict[str, Tensor], dict[str, object]]:
    """(tensors, meta) of the file that `to_bytes` made. Raises: CheckpointError where it is no such file, or not as written."""
    try:
        with safe_open(path, framework="pt") as file:
            header: dict[str, str] = file.metadata() or {}
            tensors: dict[str, Tensor] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
        if _checksum(tensors, header[META]) != header[CHECKSUM]:
            raise ValueError("its checksum does not fit its content")
        meta = json.loads(header[META])
        if not isinstance(meta, dict):
            raise ValueError("its meta data are no object of JSON")
        return tensors, meta
    except (SafetensorError, KeyError, TypeError, ValueError, OSError, RuntimeError, OverflowError, MemoryError) as error:
        raise CheckpointError(f"{path} is no whole checkpoint of karst_bench ({error})") from error
