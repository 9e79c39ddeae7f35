"""Calibration and classes, from what a model said of each image."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import numpy as np

from karst_bench.records.diagnostics import ReliabilityBin

BINS = 15  # of equal width, as in Guo et al., On calibration of modern neural networks, ICML 2017
MOST_CLASSES = 128  # whose confusions are kept
Array = np.ndarray[Any, Any]


def answers_facts(top1: Array, probability: Array, label: Array, classes: int) -> dict[str, Any]:
    """The fields of Diagnostics that follow from what was said of each image; numpy arrays (n,) each."""
    confusion = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(confusion, (label.astype(np.int64), top1.astype(np.int64)), 1)
    counts, right = confusion.sum(1), confusion.diagonal()
    per_class = [100.0 * int(r) / int(n) if n else None for r, n in zip(right, counts, strict=True)]
    known = [value for value in per_class if value is not None]
    bins = reliability_bins(top1, probability, label)
    return {
        "ece_pct": expected_calibration_error(bins),
        "mean_per_class_pct": fmean(known),
        "per_class_pct": tuple(per_class),
        "reliability": bins,
        "confusion": tuple(map(tuple, confusion.tolist())) if classes <= MOST_CLASSES else (),
    }


def reliability_bins(top1: Array, probability: Array, label: Array) -> tuple[ReliabilityBin, ...]:
    """BINS bins of (0, 1], those without images left empty."""
    confidence = probability.astype(np.float64)
    right = (top1 == label).astype(np.float64)
    where = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    n = np.bincount(where, minlength=BINS)
    means = [np.bincount(where, weights=values, minlength=BINS) / np.maximum(n, 1) for values in (confidence, right)]
    return tuple(ReliabilityBin(n=int(k), confidence_pct=float(100 * c), top1_pct=float(100 * a))
                 for k, c, a in zip(n, *means, strict=True))  # fmt: skip


def expected_calibration_error(bins: Sequence[ReliabilityBin]) -> float:
    """sum_b n_b / n |accuracy_b - confidence_b|, in per cent."""
    n = sum(b.n for b in bins)
    return sum(b.n * abs(b.top1_pct - b.confidence_pct) for b in bins) / n
