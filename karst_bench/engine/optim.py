"""Optimiser, learning-rate schedule and weight-decay groups."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from karst_bench.engine.recipe import Recipe
from karst_bench.engine.schedule import moves_per_step, rate_at
from karst_bench.methods.base import Method

Named = list[tuple[str, nn.Parameter]]
HEAD = "head."  # timm's name of the classifier


class Schedule:
    """The recipe's rate (engine/schedule.py) on every group, times the group's own `lr_scale`.

    Per epoch, the time is the epoch less the recipe's lag; per step, the number of steps done, without one.
    """

    def __init__(self, optimizer: Optimizer, recipe: Recipe, steps_per_epoch: int) -> None:
        self.per_step = moves_per_step(recipe)
        self._units = recipe.epochs * (steps_per_epoch if self.per_step else 1)
        self._optimizer, self._recipe = optimizer, recipe
        self._rate = 0.0
        self.set(0, 0)

    def set(self, epoch: int, step: int) -> None:
        """Give every group its rate for this moment (both counted from 0; step counts the whole run).

        A rate that is a tensor is written to, not replaced: a captured step reads it where it lies.
        """
        t = step if self.per_step else max(epoch - self._recipe.lag, 0)
        self._rate = rate_at(self._recipe, t, self._units)
        for group in self._optimizer.param_groups:
            rate = self._rate * group["lr_scale"]
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    @property
    def lr(self) -> float:
        """The rate of the first group without its own scale."""
        scales = [group["lr_scale"] for group in self._optimizer.param_groups]
        return float(self._rate * (1.0 if 1.0 in scales else scales[0]))


def build_optimizer(groups: Sequence[dict[str, Any]], recipe: Recipe, *, captured: bool = False) -> Optimizer:
    """AdamW or SGD, fused: one launch (one loop on the CPU) instead of one per tensor.

    captured: for a step that is recorded, with learning rates in tensors of their own beside the parameters.
    """
    if captured:
        groups = [g | {"lr": torch.tensor(float(g["lr"]), device=g["params"][0].device)} for g in groups]
    if recipe.optimiser == "sgd":
        return SGD(list(groups), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.wd, fused=True)
    return AdamW(list(groups), lr=recipe.lr, weight_decay=recipe.wd, fused=True, capturable=captured)


def param_groups(named: Named, methods: Sequence[Method], recipe: Recipe) -> list[dict[str, Any]]:
    """Groups of equal options over all trainable parameters.

    Weight decay on 1-D tensors (norms, biases, rescaling vectors) is the recipe's `decay_1d`. A method may say otherwise:
    an option in which it departs from the recipe wins, the first method first. A group's own `lr` becomes a factor on the
    schedule (`lr_scale`), so that it warms up and decays with the rest.
    """
    options = {id(p): [1.0, recipe.wd if _decays(name, p, recipe.decay_1d) else 0.0] for name, p in named}
    default = {key: tuple(value) for key, value in options.items()}
    for method in methods:
        for group in method.param_groups(named):
            for p in group["params"]:
                if id(p) not in options:
                    raise ValueError(f"{type(method).__name__}.param_groups returned a tensor that is not trainable")
                asked = (group.get("lr", recipe.lr) / recipe.lr if recipe.lr else 1.0, group.get("weight_decay"))
                for i, value in enumerate(asked):
                    if value is not None and options[id(p)][i] == default[id(p)][i]:
                        options[id(p)][i] = value
    groups: dict[tuple[float, ...], list[nn.Parameter]] = {}
    for _, p in named:
        groups.setdefault(tuple(options[id(p)]), []).append(p)
    return [
        {"params": params, "lr": recipe.lr, "lr_scale": scale, "weight_decay": decay}
        for (scale, decay), params in groups.items()
    ]


def _decays(name: str, parameter: nn.Parameter, decay_1d: str) -> bool:
    return parameter.ndim > 1 or decay_1d == "all" or (decay_1d == "all_but_head" and not name.startswith(HEAD))
