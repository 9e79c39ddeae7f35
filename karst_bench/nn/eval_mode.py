"""Evaluation mode for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients within; every part gets back the mode it had, mixed ones too."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():  # not inference_mode: what modules keep from here may be needed by autograd afterwards
            yield
    finally:
        for part, training in modes:
            part.training = training
