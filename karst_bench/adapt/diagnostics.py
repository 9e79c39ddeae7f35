"""What adaptation did inside a model: the spectrum of every weight change, and the statistics of every block's output."""

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from karst_bench.adapt.attach import adapted_model
from karst_bench.adapt.layers import AdaptedLayer
from karst_bench.nn.eval_mode import eval_mode
from karst_bench.nn.model_spec import ModelSpec


@dataclass(frozen=True)
class UpdateSpectrum:
    """The change dW of one layer, re-scalings left out. values: its singular values, descending; relative_norm: |dW| / |W0|
    (Frobenius)."""

    path: str
    values: Tensor
    relative_norm: float

    @property
    def effective_rank(self) -> float:
        """exp of the entropy of the singular values over their sum: 1 for one direction, n for n equal ones; 0 where dW = 0.

        [Roy and Vetterli, The effective rank, EUSIPCO 2007]
        """
        total = self.values.sum()
        if total <= 0:
            return 0.0
        p = self.values / total
        return math.exp(-torch.special.xlogy(p, p).sum().item())

    @property
    def largest_rank(self) -> int:
        """What a matrix of its shape can have."""
        return len(self.values)


@dataclass(frozen=True)
class BlockStatistics:
    """Mean and standard deviation of a block's output over images, tokens and channels."""

    path: str
    mean: float
    std: float


@torch.no_grad()
def update_spectra(net: nn.Module) -> list[UpdateSpectrum]:
    """Of every linear layer that a method changes by a weight, in network order; what has no weight form is not seen."""
    found = []
    for path, layer in adapted_model(net).layers.items():
        dW = _change(layer)
        if dW is not None:
            weight = layer.base.weight.double()
            ratio = (dW.norm() / weight.norm().clamp_min(1e-300)).item()
            found.append(UpdateSpectrum(path, torch.linalg.svdvals(dW).cpu(), ratio))
    return found


def _change(layer: AdaptedLayer) -> Tensor | None:
    """sum dW of a layer in float64, affines left out; None where nothing there has a weight form."""
    if not isinstance(layer.base, nn.Linear):
        return None
    merging = [(fn, rows, merge) for fn, rows, merge in zip(layer.branches, layer.branch_rows, layer.merges, strict=True) if merge]
    if not merging and not len(layer.deltas):
        return None
    double = copy.deepcopy(layer).double()
    W0 = double.base.weight
    dW = torch.zeros_like(W0)
    for update, rows in zip(double.deltas, layer.delta_rows, strict=True):
        here = slice(*(rows or (0, len(W0))))
        dW[here] += update.delta(W0[here])
    for fn, rows, merge in zip(double.branches, layer.branch_rows, layer.merges, strict=True):
        here = slice(*(rows or (0, len(W0))))
        if merge is not None:
            dW[here] += merge(fn, W0[here])
    return dW


@torch.no_grad()
def block_statistics(net: nn.Module, spec: ModelSpec, images: Iterable[Tensor]) -> list[BlockStatistics]:
    """Of every block's output over batches of images, in evaluation; the model may be plain, adapted or merged."""
    paths = list(dict.fromkeys(site.path.removesuffix(".norm1") for site in spec.having("norm1")))
    sums = {path: torch.zeros(3, dtype=torch.float64) for path in paths}

    def watch(path: str) -> None:
        def see(_module: nn.Module, _inputs: object, output: object) -> None:
            if isinstance(output, Tensor):
                h = output.double()
                sums[path] += torch.stack([h.sum(), h.square().sum(), h.new_tensor(h.numel())]).cpu()

        hooks.append(net.get_submodule(path).register_forward_hook(see))

    hooks: list[torch.utils.hooks.RemovableHandle] = []
    for path in paths:
        watch(path)
    try:
        with eval_mode(net):
            for x in images:
                net(x)
    finally:
        for hook in hooks:
            hook.remove()
    return [_statistics(path, *sums[path].tolist()) for path in paths if sums[path][2] > 0]


def _statistics(path: str, total: float, squares: float, n: float) -> BlockStatistics:
    mean = total / n
    return BlockStatistics(path, mean, math.sqrt(max(squares / n - mean**2, 0.0)))
