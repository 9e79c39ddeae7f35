"""Tensors by name: saved ones into live ones, all or none."""

from collections.abc import Mapping

import torch
from torch import Tensor

from karst_bench.errors import UserError


@torch.no_grad()
def copy_tensors(live: Mapping[str, Tensor], saved: Mapping[str, Tensor], *, source: str, remedy: str) -> None:
    """Writes the saved tensors into the live ones of the same names, in place, in the live ones' precision.

    source: where the saved ones come from. Raises: UserError, nothing being written then, if names or shapes differ.
    """
    missing, unknown = sorted(live.keys() - saved.keys()), sorted(saved.keys() - live.keys())
    if missing or unknown:
        raise UserError(
            f"{source} does not fit: of {len(live)} tensors {len(missing)} are missing, {len(unknown)} are unknown, such as "
            f"{(missing or unknown)[0]}; {remedy}"
        )
    for name, tensor in live.items():
        if tensor.shape != saved[name].shape:
            raise UserError(
                f"{source} does not fit: {name} has shape {tuple(saved[name].shape)} there and {tuple(tensor.shape)} here; "
                f"{remedy}"
            )
    for name, tensor in live.items():
        tensor.copy_(saved[name])
