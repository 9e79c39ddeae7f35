"""Activations that are cheaper to compute again than to keep."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Recompute:
    """redo(*sources) gives the activation again, bit by bit; the sources are tensors that backward keeps anyway."""

    redo: Callable[..., Tensor]
    sources: tuple[Tensor, ...]


class InputSource:
    """Where a layer's input came from in the forward pass under way: the layer before it records, the layer takes.

    Nothing is held from one pass to the next: what was recorded leaves with `take`.
    """

    def __init__(self) -> None:
        self._recorded: tuple[Tensor, Recompute] | None = None

    def record(self, output: Tensor, redo: Callable[..., Tensor], *sources: Tensor) -> None:
        """Notes that output = redo(*sources)."""
        self._recorded = output, Recompute(redo, tuple(source.detach() for source in sources))

    def take(self, x: Tensor) -> Recompute | None:
        """How to compute x again; None where x is not the very tensor that was recorded."""
        recorded, self._recorded = self._recorded, None
        return recorded[1] if recorded is not None and recorded[0] is x else None
