"""Folds a method into plain timm layers, and back, bit by bit."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from karst_bench.adapt.attach import adapted_model
from karst_bench.adapt.joined_qkv import JoinedQKV
from karst_bench.adapt.model import TimmAdaptedModel
from karst_bench.adapt.module_tree import ROOT
from karst_bench.errors import UserError
from karst_bench.nn.named_tensors import is_sharded


def mergeable(net: nn.Module) -> bool:
    """Whether plain layers can compute the same map as the attached methods, with no value more than timm's layers store."""
    return not obstacle(adapted_model(net))


def obstacle(model: TimmAdaptedModel) -> str:
    """Why the model cannot be merged, as a sentence; "" where it can."""
    if model.unmergeable:
        parts = ", ".join(model.unmergeable[:3]) + (", ..." if len(model.unmergeable) > 3 else "")
        return f"this model cannot be merged: no plain layer computes {parts}; keep the method attached"
    if is_sharded(model.net.parameters()):
        return "this model cannot be merged: its parameters are sharded; save its adapter, and load and merge it in one process"
    for path, wrapper in model.layers.items():
        base: Any = wrapper.base
        if base.weight.dtype in (torch.bfloat16, torch.float16):
            return (
                f"this model cannot be merged: {path} is stored in {base.weight.dtype}, and merging would round most of the "
                "update away; call model.float() before attaching"
            )
        missing = base.missing_bias() if isinstance(base, JoinedQKV) else "" if _has_bias(base) else "the layer"
        if missing and wrapper.shifts():
            return (
                f"this model cannot be merged: {missing} of {path} has no bias that could take up the method's shift; leave this "
                "site out, or keep the method attached"
            )
    return ""


def merge(net: nn.Module) -> nn.Module:
    """Replaces every wrapper by one plain layer: W' = diag(g)(W0 + dW), b' = g b + s; the keys are timm's again.

    Folding is done in float64 and rounded once to the stored precision. Works in place; `unmerge` undoes it exactly.
    Raises: UserError if a part has no weight form, or if the weights are stored below fp32 (the update would be lost).
    """
    model = adapted_model(net)
    if model.merged:
        return net
    if reason := obstacle(model):
        raise UserError(reason)
    folded = {path: wrapper.fold() for path, wrapper in model.layers.items()}
    for path, (weight, bias) in folded.items():
        base = model.layers[path].base
        if isinstance(base, JoinedQKV):
            _set(model.attention_of(path), base.filled(weight, bias))
        else:
            model.place(path, _plain(model.stand_ins[base][2] if base in model.stand_ins else base, weight, bias))
    for parent, name, old in model.stand_ins.values():
        setattr(parent, name, old)
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
        if isinstance(wrapper.base, JoinedQKV):
            _set(model.attention_of(path), {**wrapper.base.emptied(), "qkv": wrapper})
        else:
            model.place(path, wrapper)
    for new, (parent, name, _) in model.stand_ins.items():
        setattr(parent, name, new)
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


def _has_bias(base: nn.Module) -> bool:
    return getattr(base, "bias", None) is not None


def _plain(base: Any, weight: Tensor, bias: Tensor | None) -> nn.Module:
    """The same layer around the folded values."""
    folded: dict[int, Any] = {id(base.weight): nn.Parameter(weight, requires_grad=False)}
    if bias is not None:
        folded[id(base.bias)] = nn.Parameter(bias, requires_grad=False)
    layer: nn.Module = copy.deepcopy(base, folded)
    return layer


def _set(owner: nn.Module, values: dict[str, Any]) -> None:
    for name, value in values.items():
        if name == "qkv" and value is None:  # timm's own, where q, k and v stand apart, is no child
            delattr(owner, name)
        setattr(owner, name, value)
