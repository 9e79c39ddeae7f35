"""How a run trains, as plain checked values; imports no torch, so that a bad value is told at once."""

import math
from dataclasses import dataclass, fields

import msgspec

from karst_bench.errors import UserError

OPTIMISERS = ("adamw", "sgd")
DECAY_1D = ("none", "all", "all_but_head")


@dataclass(frozen=True)
class Recipe:
    """How a run trains; the values live in conf/recipe/*.yaml, so none has a default here.

    epochs counts all epochs. They are one half cosine of T epochs and `cooldown * T` more at min_lr; warmup is a
    fraction of T too. lr, warmup_lr and min_lr are absolute; a warm-up or floor above lr counts as lr. clip_grad (largest
    gradient norm) null or 0: no clipping.
    lag: 1 where an epoch runs at the rate of the epoch before it, as trainers do that step their scheduler with the number
    of the epoch just finished. engine/schedule.py has the formula. decay_1d: which 1-D tensors wd acts on: none, all, or
    all_but_head. drop_last: leave out an epoch's last batch where it is smaller than `batch`, but never an only one.
    """

    name: str
    optimiser: str
    lr: float
    wd: float
    epochs: int
    batch: int
    warmup: float
    warmup_lr: float
    min_lr: float
    cooldown: float
    drop_path: float
    per_step: bool
    momentum: float
    label_smoothing: float
    clip_grad: float | None
    augment: str
    lag: int
    cosine_after_warmup: bool
    warmup_reaches_lr: bool
    decay_1d: str
    drop_last: bool

    def __post_init__(self) -> None:
        for entry in fields(self):
            try:
                msgspec.convert(getattr(self, entry.name), entry.type)
            except msgspec.ValidationError:
                kind = getattr(entry.type, "__name__", entry.type)
                raise UserError(f"recipe.{entry.name}={getattr(self, entry.name)!r} must be of type {kind}") from None
        if self.optimiser not in OPTIMISERS:
            raise UserError(f"recipe.optimiser={self.optimiser} is unknown; use one of {', '.join(OPTIMISERS)}")
        if self.decay_1d not in DECAY_1D:
            raise UserError(f"recipe.decay_1d={self.decay_1d} is unknown; use one of {', '.join(DECAY_1D)}")
        if self.lag not in (0, 1):
            raise UserError(f"recipe.lag={self.lag} must be 0 or 1")
        for key in ("epochs", "batch"):
            if getattr(self, key) < 1:
                raise UserError(f"recipe.{key}={getattr(self, key)} must be at least 1")
        for key in ("lr", "wd", "warmup_lr", "min_lr", "cooldown", "momentum"):
            if not 0 <= getattr(self, key) < math.inf:
                raise UserError(f"recipe.{key}={getattr(self, key)} must be a number of 0 or more")
        for key in ("warmup", "drop_path", "label_smoothing"):
            if not 0 <= getattr(self, key) < 1:
                raise UserError(f"recipe.{key}={getattr(self, key)} must lie in [0, 1)")
        if self.clip_grad is not None and not 0 <= self.clip_grad < math.inf:  # below 0, steps would go uphill
            raise UserError(f"recipe.clip_grad={self.clip_grad} must be null or a number of 0 (off) or more")
