"""Evaluation of a trained model: as attached, and merged into plain layers."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks.measure import interleaved, summary
from benchmarks.rows import Case, karst
from karst_bench.adapt.merge import merge
from karst_bench.adapt.speed.cls_token_block import all_tokens


def measured(case: Case, rounds: int) -> dict[str, Any]:
    """Forward passes without gradients against the plain backbone."""
    plain = case.net()
    attached = karst(case)
    attached_all, merged = copy.deepcopy(attached), merge(copy.deepcopy(attached))
    merged_all = copy.deepcopy(merged)
    for net in (attached_all, merged_all):
        all_tokens(net)
    nets = {
        "plain": plain, "plain again (A/A)": plain, "KARST merged, all tokens": merged_all,
        "KARST unmerged, all tokens": attached_all, "KARST merged": merged, "KARST unmerged": attached,
    }  # fmt: skip
    torch.manual_seed(1)
    x = torch.randn(case.batch, 3, *plain.patch_embed.img_size)  # type: ignore[union-attr,misc]
    table = summary(interleaved({name: _pass(net, x) for name, net in nets.items()}, rounds), "plain")
    return {
        "what": "evaluation pass", "model": case.model, "depth": case.depth, "batch": case.batch, "rounds": rounds,
        "precision": "fp32", "rows": table,
    }  # fmt: skip


def _pass(net: nn.Module, x: torch.Tensor) -> Callable[[], object]:
    net.eval()

    def once() -> None:
        with torch.no_grad():
            net(x)

    return once
