"""timm's ways to a model's inner features, where a method's read-out leaves no place for one of them."""

import inspect
from dataclasses import dataclass
from typing import Any

from torch import nn

from karst_bench.errors import UserError
from karst_bench.nn.reference import Reference

INTERMEDIATES = ("forward_intermediates",)  # get_intermediate_layers calls it


@dataclass(frozen=True)
class Intermediates:
    """Stands for one of the model's methods; refuses what `why` says, with `only_norm` the final norm over features alone."""

    name: str
    net: Reference[nn.Module]
    why: str
    only_norm: bool = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        net = self.net.module
        call = getattr(type(net), self.name)
        given = inspect.signature(call).bind(net, *args, **kwargs).arguments
        if given.get("norm") or not self.only_norm:
            raise UserError(f"{type(net).__name__}.{self.name}: {self.why}")
        return call(net, *args, **kwargs)
