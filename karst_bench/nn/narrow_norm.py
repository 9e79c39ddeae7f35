"""A LayerNorm that keeps its input as it was given, not the copy in full precision that autocast makes of it."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from karst_bench.nn.fused_linear import autocast_dtype


class NarrowInputNorm(nn.LayerNorm):
    """y = (x - mean) / std * w + b under autocast with x in bf16, which backward makes wide again: half the bytes, the same
    values bit by bit. Anything else, and a CPU, whose autocast leaves norms alone: as nn.LayerNorm."""

    def forward(self, x: Tensor) -> Tensor:
        narrow = x.dtype in (torch.bfloat16, torch.float16)
        if not narrow or x.device.type == "cpu" or autocast_dtype(x.device.type) is None or not torch.is_grad_enabled():
            return super().forward(x)
        y: Tensor = NormOfNarrow.apply(x, self.weight, self.bias, self.normalized_shape, self.eps)
        return y


class NormOfNarrow(torch.autograd.Function):
    """`nn.functional.layer_norm` of x.float(), of which x alone is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, shape: tuple[int, ...], eps: float) -> Tensor:
        y, mean, rstd = torch.native_layer_norm(x.float(), shape, weight, bias, eps)
        ctx.shape = shape
        ctx.save_for_backward(x, weight, bias, mean, rstd)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """torch's own, x made wide again."""
        x, weight, bias, mean, rstd = ctx.saved_tensors
        wanted = list(ctx.needs_input_grad[:3])
        dx, dweight, dbias = torch.ops.aten.native_layer_norm_backward(
            dy.contiguous(), x.float(), ctx.shape, mean, rstd, weight, bias, wanted
        )
        return None if dx is None else dx.to(x.dtype), dweight, dbias, None, None
