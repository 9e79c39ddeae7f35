"""Activations that are cheaper to compute again than to keep: the recipe that travels with them."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

ATTRIBUTE = "_karst_recipe"


@dataclass(frozen=True)
class Recompute:
    """redo(*sources) gives the activation again, bit by bit; the sources are tensors that backward keeps anyway."""

    redo: Callable[..., Tensor]
    sources: tuple[Tensor, ...]


def with_recipe(y: Tensor, redo: Callable[..., Tensor], *sources: Tensor) -> Tensor:
    """y, marked so that a fused linear receiving it keeps the sources instead. Any operation on y drops the mark."""
    setattr(y, ATTRIBUTE, Recompute(redo, tuple(source.detach() for source in sources)))
    return y


def recipe_of(x: Tensor) -> Recompute | None:
    """The recipe that x carries, if any."""
    return getattr(x, ATTRIBUTE, None)
