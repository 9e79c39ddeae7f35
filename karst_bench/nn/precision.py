"""What trains stays in the precision it was made in, beside a backbone of another one."""

import torch
from torch import Tensor, nn


def same_precision(fn: nn.Module, x: Tensor) -> bool:
    """Whether fn may be given x as it is: its parameters have x's precision, it has none, or autocast sees to it."""
    return own_precision(fn, x.dtype) == x.dtype or not x.is_floating_point() or _autocast(x.device.type)


def in_own_precision(fn: nn.Module, x: Tensor) -> Tensor:
    """fn(x) computed in the precision of fn's parameters and rounded once to x's, where the two differ."""
    if same_precision(fn, x):
        y: Tensor = fn(x)
        return y
    wide: Tensor = fn(x.to(own_precision(fn, x.dtype)))
    return wide.to(x.dtype)


def own_precision(fn: nn.Module, default: torch.dtype) -> torch.dtype:
    """The precision of fn's first floating-point parameter."""
    for p in fn.parameters():  # torch 2.6 follows no next() with a default into a compiled step
        if p.is_floating_point():
            return p.dtype
    return default


def _autocast(device: str) -> bool:
    return device != "meta" and torch.is_autocast_enabled(device)
