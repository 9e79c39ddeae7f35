"""Counts what a method adds: trained scalars, stored bits, multiply-adds. One number never tells it all."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from karst_bench.adapt.attach import adapted_model
from karst_bench.adapt.timm_compat import FakeTensorMode
from karst_bench.methods.base import Method
from karst_bench.nn.eval_mode import eval_mode


def counts(net: nn.Module, methods: Sequence[Method]) -> dict[str, int]:
    """trainable_params (head excluded) and head_params; stored_bits and active_params where a method says its own.

    Where one of several methods does, the others count 32 bits a trained scalar, and all of them as active.
    """
    model = adapted_model(net)
    found = {
        "trainable_params": sum(p.numel() for p in model.trained().values()),
        "head_params": sum(p.numel() for p in model.head().values()),
    }
    spec = model.spec
    for key, own, each in (
        ("stored_bits", [method.stored_bits(spec) for method in methods], 32),
        ("active_params", [method.active_params(spec) for method in methods], 1),
    ):
        if any(value is not None for value in own):
            found[key] = sum(
                each * method.expected_params(spec) if value is None else value
                for value, method in zip(own, methods, strict=True)
            )
    return found


def forward_macs(net: nn.Module, size: tuple[int, int]) -> int:
    """Multiply-adds of one image through the model as it stands; shapes are followed, nothing is computed."""
    device = next(net.parameters()).device
    shapes_only = nullcontext() if device.type == "meta" else FakeTensorMode(allow_non_fake_inputs=True)
    with eval_mode(net), shapes_only, FlopCounterMode(display=False) as counter:
        net(torch.zeros(1, 3, *size, device=device))
    return int(counter.get_total_flops()) // 2


def site_rows(net: nn.Module) -> list[dict[str, Any]]:
    """What stands where, a row for each wrapped module: site, parts, trained scalars (shared ones at their first site)."""
    model, seen = adapted_model(net), set[int]()
    rows = []
    for path, wrapper in model.layers.items():
        parts = [*wrapper.before, *wrapper.deltas, *wrapper.branches, *wrapper.after]
        names = " + ".join(type(part).__name__ for part in parts)
        own = {id(p): p for part in parts for p in part.parameters() if id(p) not in seen}
        seen |= own.keys()
        rows.append({"site": path, "parts": names, "params": sum(p.numel() for p in own.values())})
    return rows
