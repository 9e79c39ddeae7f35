"""Tensors by name: saved ones into live ones, all or none."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from karst_bench.errors import UserError


@torch.no_grad()
def copy_tensors(live: Mapping[str, Tensor], saved: Mapping[str, Tensor], *, source: str, remedy: str) -> None:
    """Writes the saved tensors into the live ones of the same names, in place, in the live ones' precision.

    source: where the saved ones come from. Raises: UserError, nothing being written then, if names or shapes differ.
    """
    refuse_misfit(live, {name: tuple(tensor.shape) for name, tensor in saved.items()}, source=source, remedy=remedy)
    for name, tensor in live.items():
        tensor.copy_(saved[name])


def refuse_misfit(
    live: Mapping[str, Tensor], saved: Mapping[str, tuple[int, ...]], *, source: str, remedy: str
) -> None:
    """Raises: UserError where names or shapes (of `saved`) differ from those of the live tensors."""
    missing, unknown = sorted(live.keys() - saved.keys()), sorted(saved.keys() - live.keys())
    if missing or unknown:
        examples = [f"{names[0]} is {word}" for names, word in ((missing, "missing"), (unknown, "unknown")) if names]
        raise UserError(
            f"{source} does not fit: of {len(live)} tensors {len(missing)} are missing, {len(unknown)} are unknown: "
            f"{', '.join(examples)}; {remedy}"
        )
    for name, tensor in live.items():
        if tensor.shape != saved[name]:
            raise UserError(
                f"{source} does not fit: {name} has shape {saved[name]} there and {tuple(tensor.shape)} here; {remedy}"
            )


def is_sharded(tensors: Iterable[Tensor]) -> bool:
    """Whether some of them lie in pieces on several processes (FSDP's fully_shard)."""
    return any(hasattr(tensor, "full_tensor") for tensor in tensors)


def gathered(tensor: Tensor) -> Tensor:
    """The whole of a tensor that lies in pieces on several processes, all of which must ask for it; any other as it is."""
    if not hasattr(tensor, "full_tensor"):
        return tensor
    whole: Tensor = tensor.full_tensor()
    return whole
