"""One copy of a backbone's weights for all runs of a process: the second run starts in less than a tenth of a second."""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from karst_bench.adapt.backbone import build_backbone, draw_head
from karst_bench.adapt.timm_sites import head_parameters

Key = tuple[str, ...]


@dataclass
class Stored:
    """A backbone's tensors as loaded, what they summed to then, and empty models waiting to be copied, by drop-path rate."""

    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]
    sums: list[int] = field(init=False)
    templates: dict[float, nn.Module] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.sums = self.sum_up()

    def sum_up(self) -> list[int]:
        """The sum of each tensor's bits as integers: a trained weight that was not given its own storage shows here."""
        bits = [_bits(tensor).sum() for group in (self.parameters, self.buffers) for tensor in group.values()]
        return torch.stack(bits).tolist()


class SharedBackbones:
    """Builds timm models that share their frozen tensors; what trains gets a copy of its own (`own_trained`).

    Every model is a structure without memory, filled with the stored tensors, the first one as well: a run draws the
    same numbers whether it is the first of its process or not. Stored tensors that were written to are read again.
    """

    def __init__(self) -> None:
        self._stored: dict[Key, Stored] = {}

    def build(
        self, backbone: Mapping[str, Any], *, classes: int, weights: Path | None, drop_path: float, device: str = "cpu"
    ) -> nn.Module:
        """As build_backbone, on the device. A random backbone (weights=None) is drawn anew and not kept."""
        if weights is None:
            return build_backbone(backbone, classes=classes, weights=None, drop_path=drop_path).to(device)
        stored = self._pristine(backbone, weights, device)
        if drop_path not in stored.templates:
            empty = build_backbone(backbone, classes=1, weights=None, drop_path=drop_path, device="meta")
            stored.templates[drop_path] = empty
        net: Any = _filled(stored.templates[drop_path], stored)
        net.reset_classifier(classes)
        draw_head(net)
        filled: nn.Module = net.to(device)
        return filled

    def own_trained(self, net: nn.Module) -> None:
        """Gives every parameter that trains storage of its own; call it after the methods are attached."""
        shared = {tensor.data_ptr() for stored in self._stored.values() for tensor in stored.parameters.values()}
        for parameter in net.parameters():
            if parameter.requires_grad and parameter.data_ptr() in shared:
                parameter.data = parameter.data.clone()

    def clear(self) -> None:
        """Forgets every stored backbone."""
        self._stored.clear()

    def _pristine(self, backbone: Mapping[str, Any], weights: Path, device: str) -> Stored:
        status = weights.stat()
        arguments = json.dumps(dict(backbone.get("model_args") or {}), sort_keys=True, default=str)
        name, file = str(backbone["timm_name"]), str(weights.resolve())
        key = (name, arguments, file, str(status.st_mtime_ns), str(status.st_size), device)
        known = self._stored.get(key)
        if known is None or known.sums != known.sum_up():
            with torch.random.fork_rng(devices=[]):  # drawing a backbone that is then overwritten must not move the seed
                net = build_backbone(backbone, classes=1, weights=weights).to(device)
            head = head_parameters(net)
            frozen = {name: p.detach() for name, p in net.named_parameters() if id(p) not in head}
            self._stored[key] = Stored(frozen, dict(net.named_buffers()))
        return self._stored[key]


def _filled(template: nn.Module, stored: Stored) -> nn.Module:
    """A copy of the structure around the stored tensors themselves; each copy has parameters of its own over them."""
    memo: dict[int, Any] = {}
    for name, parameter in template.named_parameters():
        if name in stored.parameters:
            memo[id(parameter)] = nn.Parameter(stored.parameters[name], requires_grad=False)
    for name, buffer in template.named_buffers():
        memo[id(buffer)] = stored.buffers[name]
    return copy.deepcopy(template, memo)


def _bits(tensor: Tensor) -> Tensor:
    flat = tensor.contiguous().view(-1)
    if flat.dtype is torch.float32:
        return flat.view(torch.int64 if flat.numel() % 2 == 0 else torch.int32)
    return flat
