"""One pass and back through the unadapted model, batch by batch: what a scoring pre-pass may look at."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from karst_bench.adapt.timm_sites import head_parameters, model_spec
from karst_bench.errors import MisfitError
from karst_bench.methods.base import Artefact, Method, ScoredBatch
from karst_bench.nn.model_spec import ModelSpec, Site

Labelled = Iterable[tuple[Tensor, Tensor]]  # normalised images (b, 3, H, W) and labels (b,)


class TimmScoringModel:
    """An unadapted timm model with a fresh head and labelled images: the ScoringModel of methods/base.py.

    Every parameter of the backbone gets a gradient, none is written to. images_of: batches of a size -> the images.
    """

    def __init__(self, net: nn.Module, images_of: Callable[[int], Labelled]) -> None:
        self.net = net
        self.spec: ModelSpec = model_spec(net)
        self._images_of = images_of
        head = head_parameters(net)
        self._own = {name: p for name, p in net.named_parameters() if id(p) not in head}
        for parameter in net.parameters():
            parameter.requires_grad_(id(parameter) not in head)

    def weight(self, name: str) -> Tensor:
        """One of the backbone's own parameters, detached."""
        return self._own[name].detach()

    def batches(self, count: int, size: int, *, inputs: Sequence[Site] = ()) -> Iterator[ScoredBatch]:
        """Losses are means over a batch; train mode, so drop-path is on where the model has it."""
        self.net.train()
        seen: dict[str, Tensor] = {}
        hooks = [self.net.get_submodule(site.path).register_forward_pre_hook(_keeper(seen, site.path)) for site in inputs]
        try:
            for _, (x, y) in zip(range(count), self._images_of(size), strict=False):
                self.net.zero_grad(set_to_none=True)
                with torch.enable_grad():
                    cross_entropy(self.net(x).float(), y).backward()
                gradients = {name: p.grad for name, p in self._own.items() if p.grad is not None}
                yield ScoredBatch(len(y), gradients, {path: (z.detach(), _gradient(z)) for path, z in seen.items()})
        finally:
            for hook in hooks:
                hook.remove()
            self.net.zero_grad(set_to_none=True)


def score_methods(net: nn.Module, methods: Sequence[Method], images_of: Callable[[int], Labelled]) -> dict[str, Artefact]:
    """What every scored method finds on an unadapted model, by method name; the model is used up by it."""
    model = TimmScoringModel(net, images_of)
    return {method.name: _scored(method, model) for method in methods if method.scored}


def _scored(method: Method, model: TimmScoringModel) -> Artefact:
    try:
        return method.score(model)
    except MisfitError as error:
        raise error.of(method.name, model.spec.model) from error


def _keeper(seen: dict[str, Tensor], path: str) -> Callable[[nn.Module, Any], None]:
    def keep(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen[path] = args[0]
        args[0].retain_grad()

    return keep


def _gradient(z: Tensor) -> Tensor:
    assert z.grad is not None, "a kept input lies on the way to the loss"
    return z.grad
