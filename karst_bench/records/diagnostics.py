"""What lies behind an accuracy: calibration, classes, and what adaptation did inside; in a record on request."""

from karst_bench.records.facts import Amount, Count, Facts, Percent


class UpdateFacts(Facts, frozen=True, kw_only=True):
    """A layer's dW: its effective rank (exp of the entropy of its singular values), the rank of its shape, |dW| / |W0|."""

    path: str
    effective_rank: Amount
    largest_rank: Count
    relative_norm: Amount


class FeatureFacts(Facts, frozen=True, kw_only=True):
    """A block's output before and after adaptation: mean and standard deviation over images, tokens and channels."""

    path: str
    mean_before: float
    std_before: Amount
    mean_after: float
    std_after: Amount


class ReliabilityBin(Facts, frozen=True, kw_only=True):
    """The images whose top-1 probability lies in one bin: how many, its mean, their accuracy."""

    n: Count
    confidence_pct: Percent
    top1_pct: Percent


class Diagnostics(Facts, frozen=True, kw_only=True):
    """Of the reported split. nll: mean negative log-likelihood in nats; ece_pct: expected calibration error of top-1;
    mean_per_class_pct: over the classes that have images; per_class_pct: None for those that have none; confusion: rows are
    labels, columns what was said, up to 128 classes."""

    nll: Amount | None = None
    ece_pct: Percent | None = None
    mean_per_class_pct: Percent | None = None
    per_class_pct: tuple[Percent | None, ...] = ()
    reliability: tuple[ReliabilityBin, ...] = ()
    confusion: tuple[tuple[Count, ...], ...] = ()
    updates: tuple[UpdateFacts, ...] = ()
    features: tuple[FeatureFacts, ...] = ()
