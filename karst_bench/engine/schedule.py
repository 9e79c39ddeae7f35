"""The learning rate of a moment, as a plain formula; imports no torch, so that pages and tests can print it."""

import math

from karst_bench.engine.recipe import Recipe

PER_EPOCH_FROM = 50  # shorter runs move the learning rate at every step: an epoch would be too coarse


def moves_per_step(recipe: Recipe) -> bool:
    """Whether the rate moves at every step, not once an epoch."""
    return recipe.per_step or recipe.epochs < PER_EPOCH_FROM


def rate_at(recipe: Recipe, t: int, units: int) -> float:
    """Warm-up, half a cosine, floor: the rate at time t of `units` epochs or steps.

    T = units / (1 + cooldown); w = warmup T; s, f = warmup_lr, min_lr, neither above lr.
    t < w: s + t (lr - s) / w, of w - 1 with warmup_reaches_lr; then f + (lr - f) (1 + cos(pi u / U)) / 2 for u < U, where
    (u, U) = (t, T), or (t - w, T - w) with cosine_after_warmup; then f.
    """
    T = max(1, round(units / (1 + recipe.cooldown)))
    w = min(round(recipe.warmup * T), T)
    lr, start, floor = recipe.lr, min(recipe.warmup_lr, recipe.lr), min(recipe.min_lr, recipe.lr)
    if t < w:
        return start + t * ((lr - start) / (max(w - 1, 1) if recipe.warmup_reaches_lr else w))
    u, U = (t - w, T - w) if recipe.cosine_after_warmup else (t, T)
    return floor + 0.5 * (lr - floor) * (1 + math.cos(math.pi * u / U)) if u < U else floor


def epoch_rates(recipe: Recipe) -> list[float]:
    """The rate of every epoch, the first one at 0, where it moves once an epoch: epoch e runs at t = max(e - lag, 0)."""
    return [rate_at(recipe, max(epoch - recipe.lag, 0), recipe.epochs) for epoch in range(recipe.epochs)]
