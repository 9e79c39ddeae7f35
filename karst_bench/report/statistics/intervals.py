"""Uncertainty of one cell and of an average over tasks: pure functions of arrays, no frames, no files.

Everything is in the unit of its input (here: points of top-1 accuracy). The tasks are a fixed set, not a sample of a
larger population; what varies is the seed. docs/statistics.md says which interval a table prints and how often it
holds at n = 3, 5, 10.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import fsum
from statistics import fmean

import numpy as np
from scipy import stats

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A value with its n and a two-sided 95 % interval; low and high are None where no interval exists: n = 1, or all seeds
    equal, which at n = 3 says little."""

    value: float
    n: int
    low: float | None = None
    high: float | None = None

    @property
    def half(self) -> float | None:
        """Half width of the interval, in the unit of the value."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


def mean_interval(scores: Sequence[float]) -> Estimate:
    """Mean of the seeds of one cell with Student's t interval: mean +- t(0.975, n - 1) s / sqrt(n)."""
    values = np.asarray(scores, dtype=float)
    n, mean = len(values), fmean(scores)
    if n < 2 or not np.ptp(values):
        return Estimate(mean, n)
    spread = float(stats.sem(values))
    low, high = stats.t.interval(LEVEL, n - 1, loc=mean, scale=spread)
    return Estimate(mean, n, float(low), float(high))


def weighted_sum(weights: Sequence[float], values: Sequence[float]) -> float:
    """sum_t w_t v_t, rounded once: a product of arrays sums in an order of the processor's, and tables must not differ by it."""
    return fsum(w * v for w, v in zip(weights, values, strict=True))


def satterthwaite(groups: Sequence[Sequence[float]], weights: Sequence[float]) -> tuple[float, float, float]:
    """Weighted mean of task means, its standard error, and the effective degrees of freedom.

    M = sum_t w_t mean_t,  V = sum_t w_t^2 s_t^2 / n_t,  dof = V^2 / sum_t (w_t^2 s_t^2 / n_t)^2 / (n_t - 1)
    (Satterthwaite, Biometrics Bulletin 2(6), 1946). The seeds of different tasks are taken as independent draws.
    Raises: ValueError if a task has fewer than two seeds (no variance, hence no interval).
    """
    sizes = np.array([len(group) for group in groups])
    if sizes.min() < 2:
        raise ValueError(f"an interval needs two seeds in every task, got {sizes.min()} in one")
    means = [fmean(group) for group in groups]
    weight = np.asarray(weights, dtype=float)
    parts = weight**2 * np.array([np.var(group, ddof=1) for group in groups]) / sizes
    variance = float(parts.sum())
    dof = variance**2 / float((parts**2 / (sizes - 1)).sum()) if variance > 0 else float(sizes.sum() - len(sizes))
    return weighted_sum(weights, means), float(np.sqrt(variance)), dof


def average_interval(groups: Sequence[Sequence[float]], weights: Sequence[float]) -> Estimate:
    """Average over tasks with the interval the tables print: t with Satterthwaite's degrees of freedom.

    n is the smallest number of seeds of any task. Without two seeds in every task the interval is absent.
    """
    n = min(len(group) for group in groups)
    if n < 2:
        return Estimate(weighted_sum(weights, [fmean(group) for group in groups]), n)
    mean, spread, dof = satterthwaite(groups, weights)
    if spread == 0:
        return Estimate(mean, n)
    low, high = stats.t.interval(LEVEL, dof, loc=mean, scale=spread)
    return Estimate(mean, n, float(low), float(high))


def per_seed_interval(groups: Sequence[Sequence[float]], weights: Sequence[float]) -> Estimate:
    """The same average with a t interval over the n per-seed averages (n - 1 degrees of freedom).

    Holds when a seed moves all tasks together, at the price of t(0.975, 2) = 4.3 at n = 3. Needs equal n.
    """
    matrix = np.array(groups, dtype=float)
    return mean_interval([weighted_sum(weights, column) for column in matrix.T])


def interquartile_mean(groups: Sequence[Sequence[float]]) -> float:
    """Mean of the middle half of all runs of all tasks (25 % trimmed at each end), as rliable's aggregate_iqm."""
    return float(stats.trim_mean(np.concatenate([np.asarray(group, dtype=float) for group in groups]), 0.25))


def bootstrap_interval(
    groups: Sequence[Sequence[float]],
    statistic: Callable[[list[np.ndarray]], np.ndarray],
    rng: np.random.Generator,
    draws: int = 2000,
) -> tuple[float, float]:
    """Percentile interval of a statistic under the stratified bootstrap of rliable: runs redrawn within each task.

    `statistic` maps a list of (draws, n_t) arrays, one per task, to (draws,) values, so that all draws go at once.
    At n = 3 this interval is too short (see docs/statistics.md); it is printed beside the other one, for comparison.
    """
    redrawn = []
    for group in groups:
        values = np.asarray(group, dtype=float)
        redrawn.append(values[rng.integers(0, len(values), size=(draws, len(values)))])
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(statistic(redrawn), [tail, 1 - tail])
    return float(low), float(high)


def weighted_mean(weights: Sequence[float]) -> Callable[[list[np.ndarray]], np.ndarray]:
    """The statistic `bootstrap` needs for an average over tasks."""
    weight = np.asarray(weights, dtype=float)
    return lambda redrawn: np.stack([values.mean(axis=1) for values in redrawn], axis=1) @ weight


def trimmed_mean(redrawn: list[np.ndarray]) -> np.ndarray:
    """The statistic `bootstrap` needs for the interquartile mean."""
    return np.asarray(stats.trim_mean(np.concatenate(redrawn, axis=1), 0.25, axis=1))


def test_set_error(accuracy_pct: float, images: int) -> float:
    """Standard error in points from the finite test set: 100 sqrt(p (1 - p) / images) (binomial)."""
    p = min(max(accuracy_pct / 100, 0.0), 1.0)
    return 100 * float(stats.binom.std(images, p)) / images
