"""timm's ways to a model's inner features, where a method's read-out leaves no place for one of them."""

import inspect
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.fx import Proxy

from karst_bench.errors import UserError
from karst_bench.nn.reference import Reference, refuse_replica
from karst_bench.nn.transient import Transient

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


@dataclass(frozen=True)
class Features:
    """Stands for the model's forward_features: the model's own forward calls it, anyone else is refused by `why`."""

    net: Reference[Any]
    why: str
    inside: Transient = field(default_factory=Transient)

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        net = self.net.module
        if not self.inside and not isinstance(x, Proxy):
            raise UserError(f"{type(net).__name__}.forward_features: {self.why}")
        return type(net).forward_features(net, x, *args, **kwargs)

    def enter(self, net: nn.Module, *_: Any) -> None:
        """Forward pre-hook of the model."""
        refuse_replica(net)
        self.inside["forward"] = True

    def leave(self, *_: Any) -> None:
        """Forward hook of the model, called whatever happens."""
        self.inside.clear()


def own_features(net: Any, x: Tensor) -> Tensor:
    """What the model's own forward hands to its head, whatever `Features` refuses to others."""
    features: Tensor = type(net).forward_features(net, x)
    return features
