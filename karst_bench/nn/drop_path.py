"""Drop-path on a branch beside a layer."""

import torch
from torch import Tensor, nn

from karst_bench.nn.lowrank import HiddenAndUp


def drop_path(y: Tensor, p: float) -> Tensor:
    """m y / (1 - p), m ~ Bernoulli(1 - p) for each entry of the first axis."""
    keep = torch.rand(y.shape[0], *[1] * (y.ndim - 1), device=y.device) >= p
    return y * keep.to(y.dtype) / (1 - p)


class DroppedBranch(nn.Module):
    """x -> m f(x) / (1 - p) in training, m ~ Bernoulli(1 - p) for each entry of the first axis; f(x) in evaluation.

    Shapes: as f's. On Swin, inside attention, an entry is a window, elsewhere an image.
    """

    def __init__(self, fn: nn.Module, *, p: float) -> None:
        super().__init__()
        self.fn = fn
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return self._dropped(self.fn(x))

    def low_rank(self, x: Tensor) -> HiddenAndUp | None:
        """As the branch's own, with the hidden values dropped; None where it has none."""
        if not hasattr(self.fn, "low_rank"):
            return None
        hidden, up = self.fn.low_rank(x)  # type: ignore[operator]
        return self._dropped(hidden), up

    def _dropped(self, y: Tensor) -> Tensor:
        return drop_path(y, self.p) if self.training and self.p else y

    def delta(self, W0: Tensor) -> Tensor:
        """dW of the branch, where it has a weight form."""
        dW: Tensor = self.fn.delta(W0)  # type: ignore[operator]
        return dW

    def extra_repr(self) -> str:
        return f"p={self.p}"
