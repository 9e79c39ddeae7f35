"""A model whose every part before the classifier is one compiled function: one compilation for all tasks of a sweep."""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from karst_bench.adapt.intermediates import own_features
from karst_bench.adapt.timm_compat import COMPILER_ERRORS
from karst_bench.adapt.timm_sites import classifier, classifiers
from karst_bench.nn.reference import Reference

log = logging.getLogger(__name__)

Backend = str | Callable[..., Any]


class CompiledTrunk(nn.Module):
    """Images (B, 3, H, W) -> logits (B, classes), compiled up to the pooled features, in training alone.

    It has the model's own tensors and children, under the same names. The classifier stays outside, so that models which differ in
    their classes alone are compiled once. What cannot be compiled in one piece runs as it is, and `compiled` says so. A
    single pass in evaluation is not worth compiling.
    """

    _running: tuple[Any, ...] = ()  # what this process compiled last

    def __init__(self, net: nn.Module, *, key: tuple[Any, ...], backend: Backend = "inductor") -> None:
        """key: whatever else but its classes tells this model from others, so that compilers never run out of room."""
        super().__init__()
        for name, parameter in net.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        for name, buffer in net.named_buffers(recurse=False):
            self.register_buffer(name, buffer, persistent=name in net.state_dict())
        for name, child in net.named_children():
            self.add_module(name, child)
        self.net: Reference[Any] = Reference(net)
        self.training = net.training
        if key != CompiledTrunk._running:
            torch.compiler.reset()
            CompiledTrunk._running = key
        self._trunk = torch.compile(_features, fullgraph=True, dynamic=False, backend=backend)
        self.compiled = len(classifiers(net)) == 1  # two of a distilled model read a token each

    def forward(self, x: Tensor) -> Tensor:
        net = self.net.module
        if self.training and self.compiled:
            try:
                return self._classified(self._trunk(net, x))
            except COMPILER_ERRORS as error:
                self.compiled = False
                log.warning("the step could not be compiled and runs as it is: %s", str(error).partition("\n")[0])
        logits: Tensor = net(x)
        return logits

    def _classified(self, features: Tensor) -> Tensor:
        logits: Tensor = classifier(self.net.module)(features)
        return logits


def _features(net: Any, x: Tensor) -> Tensor:
    features: Tensor = net.forward_head(own_features(net, x), pre_logits=True)
    return features
