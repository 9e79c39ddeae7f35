"""Computes GELU and LayerNorm outputs again in backward instead of keeping them: exact, for a little arithmetic."""

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import GELU, LayerNorm
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from karst_bench.nn.recompute import with_recipe


def recompute(net: nn.Module) -> list[RemovableHandle]:
    """Marks the outputs of every plain LayerNorm and GELU of the model; a changed linear layer then keeps their input.

    That input is kept by the LayerNorm or GELU anyway, so the output costs no memory. The values are the same bit by bit.
    Returns the handles that take the marks off again (`handle.remove()`).
    """
    handles = []
    for module in net.modules():
        if type(module) in (nn.LayerNorm, LayerNorm) and not getattr(module, "_fast_norm", False):
            handles.append(module.register_forward_hook(_mark_norm))
        elif type(module) in (nn.GELU, GELU):
            handles.append(module.register_forward_hook(_mark_gelu))
    return handles


def _mark_norm(norm: Any, arguments: tuple[Tensor, ...], y: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        return y
    shape, eps, dtype = norm.normalized_shape, norm.eps, y.dtype  # autocast's choice of precision is repeated by hand

    def redo(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        return F.layer_norm(x.to(dtype), shape, weight, bias, eps)

    affine = tuple(p for p in (norm.weight, norm.bias) if p is not None)  # a norm has a bias only beside a weight
    return with_recipe(y, redo, arguments[0], *affine)


def _mark_gelu(gelu: Any, arguments: tuple[Tensor, ...], y: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        return y
    approximate, dtype = getattr(gelu, "approximate", "none"), y.dtype
    return with_recipe(y, lambda x: F.gelu(x.to(dtype), approximate=approximate), arguments[0])
