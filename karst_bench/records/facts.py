"""The parts of a record: named, typed, frozen; what is not known is absent."""

import traceback
from typing import Annotated

from msgspec import Meta, Struct, field

from karst_bench.records.strict_json import MAX_INT, RecordError

Percent = Annotated[float, Meta(ge=0, le=100)]
Count = Annotated[int, Meta(ge=0, le=MAX_INT)]
Amount = Annotated[float, Meta(ge=0)]


class Facts(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What all parts of a record have in common: named, frozen, nothing unknown, nothing that says nothing."""


class DataFacts(Facts, frozen=True, kw_only=True):
    """The data as they turned out to be. list_sha256: over the split lists, or over what was generated; pixels_sha256: over
    the pictures, where it is part of the id; images_sha256: over the pictures where their lists are published and the id goes
    by these; mean, std: the normalisation, per channel of values in [0, 1]."""

    list_sha256: str
    encoding: str  # png | jpeg75 | native | generated
    source: str | None = None
    own_split: bool = False  # drawn here, not the published lists
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    pixels_sha256: str | None = None
    images_sha256: str | None = None


class WeightsFacts(Facts, frozen=True, kw_only=True):
    """The backbone's weights. kind: pretrained | none | file; sha256: of the file, absent without one."""

    name: str
    timm_name: str | None = None
    kind: str | None = None
    sha256: str | None = None


class Provenance(Facts, frozen=True, kw_only=True):
    """Code and machine. dirty: whether the sources differed from the commit; packages: name -> version."""

    commit: str | None = None
    dirty: bool | None = None
    version: str | None = None
    python: str | None = None
    packages: dict[str, str] = field(default_factory=dict)
    device: str | None = None
    threads: Count | None = None
    cpu_model: str | None = None
    cpu_count: Count | None = None
    cpu_capability: str | None = None
    cuda: str | None = None
    platform: str | None = None


class Metrics(Facts, frozen=True, kw_only=True):
    """Accuracies in per cent, of the last epoch, the best check (peak, best), and the numbers of images."""

    test_top1_last_pct: Percent | None = None
    test_top1_peak_pct: Percent | None = None
    val_top1_last_pct: Percent | None = None
    val_top1_best_pct: Percent | None = None
    best_epoch: Count | None = None
    test_n: Count | None = None
    val_n: Count | None = None
    train_n: Count | None = None

    def accuracy(self) -> tuple[str, float]:
        """(test | val, the accuracy that the run is judged by): test before val, the last epoch before the best."""
        for split, value in (("test", self.test_top1_last_pct), ("val", self.val_top1_last_pct),
                             ("test", self.test_top1_peak_pct), ("val", self.val_top1_best_pct)):  # fmt: skip
            if value is not None:
                return split, value
        raise RecordError("metrics hold no accuracy")


class CheckResult(Facts, frozen=True, kw_only=True):
    """One look at a split: after `epoch` (from 1), the top-1 in per cent."""

    epoch: Count
    split: str
    top1_pct: Percent


class Curves(Facts, frozen=True, kw_only=True):
    """One value an epoch (mean training loss, training top-1 in per cent, learning rate at its end), and the checks."""

    epoch: tuple[Count, ...] = ()
    train_loss: tuple[float, ...] = ()
    train_top1_pct: tuple[Percent, ...] = ()
    lr: tuple[float, ...] = ()
    checks: tuple[CheckResult, ...] = ()


class Counts(Facts, frozen=True, kw_only=True):
    """Scalars trained (head excluded), of the head, multiply-adds of one image through the merged model; stored_bits,
    active_params and update_nonzeros (entries of weights that change) only where a method says more than 32 bits, all of
    them and whole sites; saved_bytes_per_image: what autograd keeps for backward; blocks_without_graph: that it skips."""

    trainable_params: Count
    head_params: Count | None = None
    forward_macs: Count | None = None
    stored_bits: Count | None = None
    active_params: Count | None = None
    update_nonzeros: Count | None = None
    saved_bytes_per_image: Count | None = None
    blocks_without_graph: Count | None = None


class Seconds(Facts, frozen=True, kw_only=True):
    """Wall-clock seconds of the phases; total_s: of all of them."""

    total_s: Amount | None = None
    setup_s: Amount | None = None
    search_s: Amount | None = None  # of a method that searches: its supernet and the comparison of subnets
    train_s: Amount | None = None
    evaluate_s: Amount | None = None


class Speed(Facts, frozen=True, kw_only=True):
    """How fast training went, checks left out. mode: how steps were run: eager, graph (captured), compile (captured too on a
    GPU)."""

    train_images_per_s: Amount | None = None
    step_ms_median: Amount | None = None
    mode: str | None = None


class RunFailure(Facts, frozen=True, kw_only=True):
    """Why a run failed."""

    type: str
    message: str = ""
    traceback: str = ""

    @classmethod
    def of(cls, error: BaseException) -> "RunFailure":
        """The failure of a caught exception, with its traceback."""
        lines = traceback.format_exception(error)
        return cls(type=type(error).__name__, message=str(error), traceback="".join(lines))
