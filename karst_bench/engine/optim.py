"""Optimiser, learning-rate schedule and weight-decay groups."""

from collections.abc import Sequence
from typing import Any

from timm.scheduler.cosine_lr import CosineLRScheduler
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from karst_bench.engine.recipe import Recipe
from karst_bench.methods.base import Method

PER_EPOCH_FROM = 50  # shorter runs move the learning rate at every step: an epoch would be too coarse
Named = list[tuple[str, nn.Parameter]]


class Schedule:
    """Warm-up and cosine on every group, as timm's CosineLRScheduler without warm-up prefix computes it.

    With T the cosine's length, w the warm-up and t the time: t < w: warmup_lr + t (lr - warmup_lr) / w; t < T:
    min_lr + (lr - min_lr) (1 + cos(pi t / T)) / 2; then min_lr. The cosine is not shifted by the warm-up.
    Per epoch, t is the epoch before the running one (0 in the first): the published trainers step the scheduler after
    an epoch with that epoch's number. Per step, t is the number of steps done.
    """

    def __init__(self, optimizer: Optimizer, recipe: Recipe, steps_per_epoch: int) -> None:
        self.per_step = recipe.per_step or recipe.epochs < PER_EPOCH_FROM
        units = recipe.epochs * (steps_per_epoch if self.per_step else 1)
        length = max(1, round(units / (1 + recipe.cooldown)))
        warmup = min(round(recipe.warmup * length), length)
        self._optimizer = optimizer
        self._cosine = CosineLRScheduler(
            optimizer, t_initial=length, lr_min=min(recipe.min_lr, recipe.lr), warmup_t=warmup,
            warmup_lr_init=min(recipe.warmup_lr, recipe.lr),
        )  # fmt: skip

    def set(self, epoch: int, step: int) -> None:
        """Give every group its rate for this moment (both counted from 0; step counts the whole run)."""
        self._cosine.step(step if self.per_step else max(epoch - 1, 0))

    @property
    def lr(self) -> float:
        """The rate of the first group without its own scale."""
        groups = self._optimizer.param_groups
        return float(next((g["lr"] for g in groups if g["lr_scale"] == 1.0), groups[0]["lr"]))


def build_optimizer(groups: Sequence[dict[str, Any]], recipe: Recipe) -> Optimizer:
    """AdamW or SGD, fused: one launch (one loop on the CPU) instead of one per tensor."""
    if recipe.optimiser == "sgd":
        return SGD(list(groups), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.wd, fused=True)
    return AdamW(list(groups), lr=recipe.lr, weight_decay=recipe.wd, fused=True)


def param_groups(named: Named, methods: Sequence[Method], recipe: Recipe) -> list[dict[str, Any]]:
    """Groups of equal options over all trainable parameters.

    By default no weight decay on 1-D tensors (norms, biases, rescaling vectors). A method may say otherwise: an option
    in which it departs from the default wins, the first method first. A group's own `lr` becomes a factor on the
    schedule (`lr_scale`), so that it warms up and decays with the rest.
    """
    options = {id(p): [1.0, recipe.wd if p.ndim > 1 else 0.0] for _, p in named}
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
