"""What each evaluation protocol means: the split trained on, the epochs at which it looks, the split it reports."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from karst_bench.errors import UserError

# What a protocol says -> the split that a VTAB task (800 + 200 images), a set of one's own or a few-shot set (train and val
# list) has.
SPLITS = {
    "all": ("train800val200", "trainval", "train"),
    "fit": ("train800", "train"),
    "val": ("val200", "val"),
    "test": ("test",),
}


@dataclass(frozen=True)
class EvaluationPlan:
    """A protocol for one run. choose: keep the weights of the best check; never true where the checks see the test."""

    name: str
    train: str
    check: str | None
    check_epochs: frozenset[int]
    choose: bool
    final: str


def tenths(epochs: int) -> list[int]:
    """The epochs (counted from 1) that end a tenth of the run, without doubles; the last epoch is always among them.

    100 epochs: 10, 20, ..., 100. 5 epochs: 1, 2, 3, 4, 5.
    """
    return sorted({-(-k * epochs // 10) for k in range(1, 11)})


def split_of(key: str, splits: Collection[str], *, wanted_by: str = "a search") -> str:
    """The split of a dataset that is meant by all | fit | val | test. Raises: UserError if there is none."""
    if key not in SPLITS:
        raise UserError(f"{wanted_by}: unknown split {key!r}; use one of {', '.join(SPLITS)}")
    for split in SPLITS[key]:
        if split in splits:
            return split
    raise UserError(
        f"{wanted_by} needs the split {' or '.join(SPLITS[key])}, but this dataset has {', '.join(sorted(splits))}; "
        + ("use protocol=last" if wanted_by.startswith("protocol") else "use another dataset")
    )


def plan(protocol: Mapping[str, Any], epochs: int, splits: Collection[str]) -> EvaluationPlan:
    """Resolve a protocol node (name, train: all | fit, checks: val | test | null, final: val | test) against a task.

    Checks on val before a final pass on test choose the epoch; checks on what is reported only watch.
    Raises: UserError if the task has no such split.
    """

    def find(key: str) -> str:
        return split_of(key, splits, wanted_by=f"protocol={protocol['name']}")

    checks = protocol["checks"]
    return EvaluationPlan(
        name=protocol["name"],
        train=find(protocol["train"]),
        check=find(checks) if checks else None,
        check_epochs=frozenset(tenths(epochs)) if checks else frozenset(),
        choose=checks == "val" and protocol["final"] != "val",
        final=find(protocol["final"]),
    )
