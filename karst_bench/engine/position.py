"""Where a run is, as a checkpoint says it: held to what a run can say before anything is set back, as it may be another's."""

import math
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from karst_bench.errors import UserError

Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]


class SeenCheck(msgspec.Struct, forbid_unknown_fields=True):
    """A look at a split after an epoch (counted from 1)."""

    epoch: Count
    split: str
    top1_pct: Annotated[float, msgspec.Meta(ge=0, le=100)]


class NotedCurves(msgspec.Struct, forbid_unknown_fields=True):
    """What was noted of each epoch."""

    epoch: list[Count]
    train_loss: list[float]
    train_top1_pct: list[float]
    lr: list[float]
    checks: list[SeenCheck]


class Position(msgspec.Struct, forbid_unknown_fields=True):
    """epoch: that are done, of epochs; best_at: (epoch, top-1 %) of the weights that are kept."""

    epoch: Count
    epochs: Count
    steps_per_epoch: Count
    step: Count
    images: Count
    best_at: tuple[Count, float] | None
    curves: NotedCurves
    train_s: Seconds
    check_s: Seconds


def position_of(at: Any, *, epochs: int, steps_per_epoch: int) -> Position:
    """The position in a checkpoint's meta data. Raises: UserError where it is none, or of a run of other length."""
    for key, value in {"epochs": epochs, "steps_per_epoch": steps_per_epoch}.items():
        if isinstance(at, Mapping) and at.get(key) != value:
            raise UserError(
                f"checkpoint was written with {key}={str(at.get(key))[:40]}, this run has {value}. "
                "Resume with the configuration that wrote it, or delete it to start anew"
            )
    try:
        found = msgspec.convert(at, Position)
    except msgspec.ValidationError as error:
        raise UserError(f"checkpoint: {error}") from error
    curves = found.curves
    numbers = [*curves.train_loss, *curves.train_top1_pct, *curves.lr, found.train_s, found.check_s]
    lengths = {len(curves.epoch), len(curves.train_loss), len(curves.train_top1_pct), len(curves.lr)}
    whole = found.epoch <= epochs and lengths == {found.epoch} and all(map(math.isfinite, numbers))
    if not whole or any(check.epoch > found.epoch for check in curves.checks):
        raise UserError(f"checkpoint: {found.epoch} epochs of {epochs} are done, its curves have {sorted(lengths)}")
    return found
