"""torch.compile over a training step's forward and backward: fewer, larger kernels, CUDA graphs on a GPU."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from karst_bench.methods.base import Method


def compile_step(net: nn.Module, methods: Sequence[Method], device: torch.device) -> bool:
    """Compile `net` in place, parameter names unchanged, and say whether it was done.

    A method that makes Python choices at every step (graphable = False) leaves the net as it is. On CUDA the compiled
    parts are replayed as CUDA graphs. Shapes: a last, smaller batch is compiled once more.
    """
    if not all(method.graphable for method in methods):
        return False
    net.compile(mode="reduce-overhead" if device.type == "cuda" else "default", dynamic=False)
    return True


def uncompiled(compiled: bool) -> AbstractContextManager[object]:
    """Runs what follows without compiling: for a single pass, compiling costs more than it gains."""
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()
