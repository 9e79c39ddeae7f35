"""One number for a backbone's weights: two trunks of the same shape are told apart by it."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from karst_bench.nn.named_tensors import gathered

NARROWER = {torch.float32: (torch.bfloat16, torch.float16), torch.float64: (torch.float32, torch.bfloat16, torch.float16)}


def weights_hashes(weights: Mapping[str, Tensor]) -> dict[str, str]:
    """{precision: SHA-256} of the weights as they are stored and rounded to each narrower precision, so that an adapter
    trained beside float32 weights still knows them in a model that was cast to bfloat16. Empty without weights."""
    if not weights:
        return {}
    stored = precision_of(weights)
    return {_name(dtype): weights_hash(weights, dtype) for dtype in (stored, *NARROWER.get(stored, ()))}


def weights_hash(weights: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> str:
    """SHA-256 over names, shapes and the values, in this precision or their own, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        values = gathered(weights[name].detach()).to("cpu", dtype).contiguous()
        digest.update(f"{name} {tuple(values.shape)}\n".encode())
        if values.numel():
            digest.update(values.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def known_hash(weights: Mapping[str, Tensor], hashes: Mapping[str, str]) -> tuple[str | None, str] | None:
    """(the hash that `hashes` has for the precision of these weights, theirs); None where nothing can be compared."""
    if not weights or not hashes or any(p.device.type == "meta" for p in weights.values()):
        return None
    dtype = precision_of(weights)
    return hashes.get(_name(dtype)), weights_hash(weights, dtype)


def precision_of(weights: Mapping[str, Tensor]) -> torch.dtype:
    """The narrowest floating precision among the weights: a cast model keeps no wider one that matters."""
    return min((p.dtype for p in weights.values()), key=lambda dtype: (dtype.itemsize, str(dtype)))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
