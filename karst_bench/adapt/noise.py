"""Puts PACE's noise on what methods added to a model, and one drop-path mask on all copies of an image."""

from dataclasses import dataclass, field

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from karst_bench.adapt.attach import adapted_model
from karst_bench.nn.model_spec import ModelSpec
from karst_bench.nn.noise import BatchInHand, PartNoise


@dataclass
class Noise:
    """Where noise was put: batch, which a step fills in; head: of the logits; linears and adapters: how many have it."""

    batch: BatchInHand
    head: PartNoise
    linears: int = 0
    adapters: int = 0
    without: list[str] = field(default_factory=list)

    def said(self) -> str:
        """What is noised, for a record's notes."""
        parts = [f"{self.linears} linear layers" if self.linears else "", f"{self.adapters} adapters" if self.adapters else ""]
        where = ", ".join(part for part in (*parts, "the head") if part)
        return f"PACE's noise: on {where}" + (f"; none on {', '.join(self.without)}" if self.without else "")


class SharedDropPath(DropPath):
    """x -> m x / mean(m), m ~ Bernoulli(1 - p) for each image, the same for all its copies         [PACE's published code]

    Copies stand one after the other: [x; x]. In evaluation x.
    """

    def __init__(self, p: float, batch: BatchInHand) -> None:
        super().__init__(p)
        self.batch = batch

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        images = x.shape[0] // self.batch.copies
        mask = (torch.rand(images, *[1] * (x.ndim - 1), device=x.device) >= self.drop_prob).to(x.dtype)
        return x * (mask / (mask.mean() + 1e-12)).repeat(self.batch.copies, *[1] * (x.ndim - 1))


def add_noise(net: nn.Module, sigma: float) -> Noise:
    """Noise on the own part of every adapted linear and of every adapter within blocks, of the strengths of `strengths`.

    Changes of norms and convolutions, what works on tokens between blocks, prompts in windows and the backbone's own
    parameters that train have none: their part of the output is not stated apart. Works in place, in training alone.
    """
    model, batch = adapted_model(net), BatchInHand()
    *blocks, head = strengths(model.spec, sigma)
    noise = Noise(batch, PartNoise(head, batch))
    sites = {site.path: site for site in model.spec.sites}
    first_of = {stage: model.spec.stages.index(stage) for stage in model.spec.stages}
    for path, layer in model.layers.items():
        site = sites[path]
        if site.kind != "linear":
            continue
        block = first_of[site.stage] if site.block is None else site.block
        layer.noise = PartNoise(blocks[block], batch)
        noise.linears += 1
    for (block, _), residual in model.residuals.items():
        residual.noise = PartNoise(blocks[block], batch)
        noise.adapters += len(residual.fns)
    noise.without = _without(net)
    for parent in list(net.modules()):
        for name, child in parent.named_children():
            if isinstance(child, DropPath) and child.drop_prob:
                setattr(parent, name, SharedDropPath(child.drop_prob, batch).train(child.training))
    return noise


def strengths(spec: ModelSpec, sigma: float) -> list[float]:
    """sigma of each block, and of the head last: 0, then (L + 1 - i) / L sigma on a ViT of L blocks; (L + 1 - i) / (L + 1)
    sigma on a Swin, which has no zero. Patch merging goes with the first block of its stage."""
    L = spec.depth
    if spec.family == "vit":
        return [0.0, *(sigma * (L + 1 - i) / L for i in range(1, L + 1))]
    return [sigma * (L + 1 - i) / (L + 1) for i in range(L + 1)]


def _without(net: nn.Module) -> list[str]:
    """What methods put there that has no noise, in words."""
    model = adapted_model(net)
    kinds = {site.path: site.kind for site in model.spec.sites}
    found = [f"{count} {kind}s" for kind in ("norm", "conv") if (count := sum(kinds[path] == kind for path in model.layers))]
    if model.block_hooks is not None:
        found += [type(hook).__name__ for hook in model.block_hooks.hooks]
    if any(type(module).__name__ == "WindowTokens" for module in net.modules()):
        found.append("prompts in windows")
    return [*found, *(["the backbone's own parameters"] if model.own_trained() else [])]
