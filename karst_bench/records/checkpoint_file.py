"""Nested states (model, optimiser, generators) as one safetensors file: tensors in the body, the rest as JSON.

Nothing is pickled: a checkpoint from anywhere can be opened. The tree of dicts, lists and scalars goes into the header,
with `{"@": k}` in the place of tensor k; dicts with keys other than strings (an optimiser's) and tuples are marked.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from karst_bench.errors import UserError

HEADER = "karst_bench.tree"


def _pack(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        key = str(len(tensors))
        tensors[key] = value.detach().to("cpu", copy=True).contiguous()
        return {"@": key}
    if isinstance(value, dict):
        return {"map": [[_pack(key, tensors), _pack(item, tensors)] for key, item in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [_pack(item, tensors) for item in value]}
    if isinstance(value, list):
        return [_pack(item, tensors) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a checkpoint holds tensors, dicts, lists and plain values, not {type(value).__name__}")


def _unpack(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpack(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    ((mark, content),) = value.items()
    if mark == "@":
        return tensors[content]
    if mark == "tuple":
        return tuple(_unpack(item, tensors) for item in content)
    return {_unpack(key, tensors): _unpack(item, tensors) for key, item in content}


def to_bytes(state: Any) -> bytes:
    """One safetensors image of a nested state. Raises TypeError on anything but tensors, containers, plain values."""
    tensors: dict[str, torch.Tensor] = {}
    tree = json.dumps(_pack(state, tensors))
    return save(tensors, metadata={HEADER: tree})


def from_file(path: Path) -> Any:
    """The state written by `to_bytes`, on the CPU. Raises UserError where the file is no such checkpoint."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
            return _unpack(json.loads(file.metadata()[HEADER]), tensors)
    except (SafetensorError, KeyError, TypeError, ValueError, OSError, RecursionError) as error:
        raise UserError(f"{path} is not a checkpoint of karst_bench ({error}); remove it to start afresh") from error
