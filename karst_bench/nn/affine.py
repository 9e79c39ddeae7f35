"""Channel-wise re-scaling: the declared values, and how several fold into one."""

import torch
from torch import Tensor, nn


class Affine(nn.Module):
    """y = (centre + scale) * x + shift, along the channels                 [SSF, arXiv 2210.08823; RST of KARST, Eq. 4]

    Shapes: scale, shift (C,) or (1,) for one scalar; None leaves that half out. `centre` is 1 where the parameter
    starts at 0 (RST) and 0 where it starts at 1 (SSF). Convolution outputs have their channels on axis 1.
    """

    def __init__(self, scale: nn.Parameter | None, shift: nn.Parameter | None, *, centre: float) -> None:
        super().__init__()
        self.centre = centre
        self.scale = scale
        self.shift = shift

    def gain(self, channels: int) -> Tensor | None:
        """The factor of each channel, (channels,); None where there is none."""
        return None if self.scale is None else (self.centre + self.scale).expand(channels)

    def offset(self, channels: int) -> Tensor | None:
        """The summand of each channel, (channels,); None where there is none."""
        return None if self.shift is None else self.shift.expand(channels)

    def forward(self, x: Tensor, axis: int = -1) -> Tensor:
        shape = [1] * x.ndim
        shape[axis] = -1
        y, shift = x, None if self.shift is None else self.shift.view(shape)
        if self.scale is not None:
            scale = (self.centre + self.scale).view(shape)
            y = x * scale if shift is None else torch.addcmul(shift, x, scale)
        elif shift is not None:
            y = x + shift
        return y.to(x.dtype)  # computed in the parameters' precision, rounded once

    def extra_repr(self) -> str:
        sizes = {"scale": self.scale, "shift": self.shift}
        return ", ".join(f"{name}={tuple(p.shape)}" for name, p in sizes.items() if p is not None)


class RowsAffine(Affine):
    """An `Affine` on a range of the channels, q, k or v of a fused projection; the others stay as they are.

    Shapes: scale, shift (stop - start,) or (1,).
    """

    def __init__(
        self, scale: nn.Parameter | None, shift: nn.Parameter | None, *, centre: float, rows: tuple[int, int]
    ) -> None:
        super().__init__(scale, shift, centre=centre)
        self.rows = rows

    def gain(self, channels: int) -> Tensor | None:
        own = super().gain(self.rows[1] - self.rows[0])
        return None if own is None else self._among(own, own.new_ones(channels))

    def offset(self, channels: int) -> Tensor | None:
        own = super().offset(self.rows[1] - self.rows[0])
        return None if own is None else self._among(own, own.new_zeros(channels))

    def _among(self, own: Tensor, others: Tensor) -> Tensor:
        start, stop = self.rows
        return torch.cat([others[:start], own, others[stop:]])

    def forward(self, x: Tensor, axis: int = -1) -> Tensor:
        shape, y = [1] * x.ndim, x
        shape[axis] = -1
        gain, offset = self.gain(x.shape[axis]), self.offset(x.shape[axis])
        if gain is not None:
            y = y * gain.view(shape)
        return (y if offset is None else y + offset.view(shape)).to(x.dtype)


def fold_after(weight: Tensor, bias: Tensor | None, affine: Affine) -> tuple[Tensor, Tensor | None]:
    """(W, b) of the layer followed by the affine: W' = diag(g) W, b' = g * b + s.

    Shapes: weight (C, ...) of a linear, a convolution or a norm; bias (C,) or None.
    """
    channels = weight.shape[0]
    gain, offset = affine.gain(channels), affine.offset(channels)
    if gain is not None:
        weight = weight * gain.view(-1, *[1] * (weight.ndim - 1))
        bias = None if bias is None else bias * gain
    if offset is not None:
        bias = offset if bias is None else bias + offset
    return weight, bias


def fold_before(weight: Tensor, bias: Tensor | None, affine: Affine) -> tuple[Tensor, Tensor | None]:
    """(W, b) of a linear layer preceded by the affine: W' = W diag(g), b' = b + W s (the row sums count).

    Shapes: weight (d_out, d_in), bias (d_out,) or None.
    """
    channels = weight.shape[1]
    gain, offset = affine.gain(channels), affine.offset(channels)
    if offset is not None:
        extra = torch.mv(weight, offset)
        bias = extra if bias is None else bias + extra
    return (weight if gain is None else weight * gain), bias
