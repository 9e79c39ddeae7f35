"""A module that is used in one place of the tree and stands in another."""

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from torch import nn
from torch.fx import Proxy

from karst_bench.errors import UserError

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True, eq=False)
class Reference(Generic[M]):
    """Points to a module that is registered elsewhere: used here, but listed, counted and saved where it stands.

    Copying the model copies the reference with it, onto the copy.
    """

    module: M


def refuse_replica(module: nn.Module) -> None:
    """Raises a UserError in DataParallel's copies: what a module hands to another lies in the one model they are copies of."""
    if getattr(module, "_is_replica", False):
        raise UserError("torch.nn.DataParallel runs copies of the model at once, and this method passes values from layer to "
                        "layer, which the copies would share; use DistributedDataParallel")  # fmt: skip


def refuse_proxy(value: Any) -> None:
    """Raises a UserError where torch.fx traces through a hook, which would keep a symbol instead of a tensor."""
    if isinstance(value, Proxy):
        raise UserError("torch.fx cannot follow this method, which looks at what enters a block in each forward pass; use "
                        "forward_intermediates, torch.jit.trace or torch.export, and call model.eval() anew if you were in "
                        "evaluation: torchvision's tracer does not put the mode back when it fails")  # fmt: skip
