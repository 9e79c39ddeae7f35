"""Folds a method into plain timm layers, and back, bit by bit."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from karst_bench.adapt.attach import adapted_model
from karst_bench.adapt.layers import AdaptedLayer
from karst_bench.adapt.module_tree import ROOT
from karst_bench.errors import UserError


def mergeable(net: nn.Module) -> bool:
    """Whether plain layers can compute the same map as the attached methods."""
    return not adapted_model(net).unmergeable


def merge(net: nn.Module) -> nn.Module:
    """Replaces every wrapper by one plain layer: W' = diag(g)(W0 + dW), b' = g b + s; the keys are timm's again.

    Folding is done in float64 and rounded once to the stored precision. Works in place; `unmerge` undoes it exactly.
    Raises: UserError if a part has no weight form, or if the weights are stored below fp32 (the update would be lost).
    """
    model = adapted_model(net)
    if model.merged:
        return net
    if model.unmergeable:
        parts = ", ".join(model.unmergeable[:3]) + (", ..." if len(model.unmergeable) > 3 else "")
        raise UserError(f"this model cannot be merged: no plain layer computes {parts}; keep it as attached")
    plain = {path: _plain(path, wrapper) for path, wrapper in model.layers.items()}
    for path, layer in plain.items():
        model.place(path, layer)
    if hasattr(net, ROOT):
        delattr(net, ROOT)
    model.merged = True
    return net


def unmerge(net: nn.Module) -> nn.Module:
    """Puts the wrappers back, with the frozen weights they always held. Raises: UserError if the model is not merged."""
    model = adapted_model(net)
    if not model.merged:
        raise UserError("this model is not merged; there is nothing to undo")
    for path, wrapper in model.layers.items():
        model.place(path, wrapper)
    if model.root is not None:
        net.add_module(ROOT, model.root)
    model.merged = False
    return net


@contextmanager
def merged(net: nn.Module) -> Iterator[None]:
    """The model as it would be used: merged where plain layers can compute the same map, attached as before afterwards."""
    fold = mergeable(net) and not adapted_model(net).merged
    if fold:
        merge(net)
    try:
        yield
    finally:
        if fold:
            unmerge(net)


def _plain(path: str, wrapper: AdaptedLayer) -> nn.Module:
    base: nn.Module = wrapper.base
    if base.weight.dtype in (torch.bfloat16, torch.float16):
        raise UserError(
            f"{path} is stored in {base.weight.dtype}: merging would round most of the update away; "
            "call model.float() before attaching"
        )
    weight, bias = wrapper.fold()
    if bias is not None and base.bias is None:
        raise UserError(f"{path} has no bias to take the shift; leave this site out to merge")
    folded: dict[int, Any] = {id(base.weight): nn.Parameter(weight, requires_grad=False)}
    if bias is not None:
        folded[id(base.bias)] = nn.Parameter(bias, requires_grad=False)
    return copy.deepcopy(base, folded)  # the same layer around the folded values
