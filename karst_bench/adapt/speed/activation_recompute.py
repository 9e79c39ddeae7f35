"""Computes GELU and LayerNorm outputs again in backward instead of keeping them: exact, for a little arithmetic."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from karst_bench.adapt.attach import adapted_model
from karst_bench.adapt.layers import AdaptedLayer
from karst_bench.adapt.timm_compat import is_plain_gelu, is_plain_layer_norm
from karst_bench.nn.narrow_norm import NarrowInputNorm
from karst_bench.nn.recompute import InputSource


@dataclass(frozen=True)
class RecomputeLink:
    """One adapted layer that keeps the input of the layer before it; `remove` lets it keep its own again."""

    layer: AdaptedLayer
    handle: RemovableHandle

    def remove(self) -> None:
        """Undoes the link."""
        self.handle.remove()
        self.layer.source = None


def recompute(net: nn.Module, *, weights: bool = False) -> list[RecomputeLink]:
    """Lets every adapted linear layer that follows a plain LayerNorm or GELU keep that one's input instead of its own.

    That input is kept by the LayerNorm or GELU anyway, so the output costs no memory; every plain LayerNorm keeps it as it is
    given (nn/narrow_norm.py). The values are the same bit by bit. weights: changed weights are built again too, where they
    would be kept (on a GPU). Returns the links, each of which can be removed. Raises: UserError if no method is attached.
    """
    model = adapted_model(net)
    for layer in model.layers.values():
        layer.recompute_weight = weights
    for module in net.modules():
        if is_plain_layer_norm(module):
            module.__class__ = NarrowInputNorm  # hooks, parameters and whoever refers to it stay
    links = []
    for path, layer in model.layers.items():
        producer = model.producer(path)
        if isinstance(layer.base, nn.Linear) and producer is not None:
            hook = _recorder(producer, source := InputSource())
            if hook is not None:
                layer.source = source
                links.append(RecomputeLink(layer, producer.register_forward_hook(hook)))
    return links


def _recorder(producer: nn.Module, source: InputSource) -> Any:
    """The forward hook that records for `source`; None where the layer's output cannot be computed again exactly."""
    if is_plain_layer_norm(producer):
        return NormRecorder(source)
    return GeluRecorder(source) if is_plain_gelu(producer) else None


@dataclass(frozen=True)
class NormRecorder:
    """Forward hook of a LayerNorm."""

    source: InputSource

    def __call__(self, norm: Any, arguments: tuple[Tensor, ...], y: Tensor) -> None:
        if not torch.is_grad_enabled():
            return
        shape, eps, dtype = norm.normalized_shape, norm.eps, y.dtype  # autocast's choice of precision is repeated by hand

        def redo(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
            return F.layer_norm(x.to(dtype), shape, weight, bias, eps)

        affine = tuple(p for p in (norm.weight, norm.bias) if p is not None)  # a norm has a bias only beside a weight
        self.source.record(y, redo, arguments[0], *affine)


@dataclass(frozen=True)
class GeluRecorder:
    """Forward hook of a GELU."""

    source: InputSource

    def __call__(self, gelu: Any, arguments: tuple[Tensor, ...], y: Tensor) -> None:
        if torch.is_grad_enabled():
            approximate, dtype = getattr(gelu, "approximate", "none"), y.dtype
            self.source.record(y, lambda x: F.gelu(x.to(dtype), approximate=approximate), arguments[0])
