"""Comparing methods: paired tests with correction, ranks, critical difference, improvement, PPT, Pareto fronts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean

import numpy as np
from scipy import stats

from karst_bench.report.statistics import intervals
from karst_bench.report.statistics.intervals import LEVEL, Estimate

Scores = Sequence[Sequence[float]]


def ppt(accuracy_pct: float, params: float) -> float:
    """Performance-parameter trade-off of V-PETL Bench: acc * exp(-log10(1 + P / 10M)), acc as a fraction."""
    return accuracy_pct / 100 * float(np.exp(-np.log10(1 + params / 1e7)))


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Holm's step-down correction: p_(i) (k - i + 1), running maximum, at most 1 (family-wise error)."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(stepped, 1)
    return corrected


def probability_of_improvement(x: Scores, y: Scores) -> float:
    """P(a run of X beats a run of Y on the same task), ties one half, averaged over tasks.

    Mann and Whitney's U over n_x n_y, as rliable; counted here, since scipy's test would spend its time on p values.
    """
    chances = [0.5 + np.mean(np.sign(np.subtract.outer(a, b))) / 2 for a, b in zip(x, y, strict=True)]
    return float(np.mean(chances))


def improvement_interval(x: Scores, y: Scores, rng: np.random.Generator, draws: int = 500) -> tuple[float, float]:
    """Stratified percentile bootstrap of the probability of improvement: runs of X and Y redrawn within each task."""
    chances = np.zeros(draws)
    for a, b in zip(x, y, strict=True):
        drawn_a = np.asarray(a, dtype=float)[rng.integers(0, len(a), size=(draws, len(a)))][:, :, None]
        drawn_b = np.asarray(b, dtype=float)[rng.integers(0, len(b), size=(draws, len(b)))][:, None, :]
        chances += ((drawn_a > drawn_b) + 0.5 * (drawn_a == drawn_b)).mean(axis=(1, 2)) / len(x)
    low, high = np.quantile(chances, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class Pair:
    """First minus second method on the common tasks. p_seeds asks whether the order would survive other seeds on these
    tasks, p_tasks whether it holds over tasks; both corrected by Holm over the contrasts of the table."""

    first: str
    second: str
    difference: float
    low: float | None
    high: float | None
    p_seeds: float | None
    p_tasks: float
    improvement: float
    improvement_low: float
    improvement_high: float
    shared: int  # the fewest seeds that a task's two cells share; 0: its means were compared, unpaired
    flat: Estimate  # the difference of Set Avg., its interval over seeds
    task_half: float | None  # half of the interval of that difference over tasks, taken as a sample
    detectable: float | None  # the difference of Avg. that such an interval over seeds finds in 80 % of tries
    p_seeds_holm: float | None = None
    p_tasks_holm: float | None = None


def paired_differences(x: Mapping[int, float], y: Mapping[int, float]) -> list[float]:
    """Differences of the runs that share a seed; all seeds of a cell must be shared for a pair to be used."""
    return [x[seed] - y[seed] for seed in sorted(x.keys() & y.keys())]


def seeds_test(differences: Scores, weights: Sequence[float]) -> tuple[float, float | None, float | None, float | None]:
    """Weighted mean of the per-task mean differences: value, 95 % interval, two-sided p (t, Satterthwaite's dof).

    H0: the weighted mean difference over these tasks is 0; pairs are (task, seed). Two shared seeds per task needed.
    """
    estimate = intervals.average_interval(differences, weights)
    if estimate.half is None:
        return estimate.value, None, None, None
    mean, spread, dof = intervals.satterthwaite(differences, weights)
    p = float(2 * stats.t.sf(abs(mean) / spread, dof))
    return estimate.value, estimate.low, estimate.high, p


def tasks_test(differences: Scores) -> float:
    """Wilcoxon's signed-rank test over the task means of the differences, two-sided; 1 where all are zero."""
    means = np.array([fmean(values) for values in differences])
    if not np.any(means):
        return 1.0
    exact = len(means) <= 50 and np.all(means != 0) and len(np.unique(np.abs(means))) == len(means)
    return float(stats.wilcoxon(means, method="exact" if exact else "approx").pvalue)


def compare_pair(
    names: tuple[str, str],
    scores: tuple[Sequence[Mapping[int, float]], Sequence[Mapping[int, float]]],
    weights: Sequence[float],
    rng: np.random.Generator,
) -> Pair:
    """Compare two methods; scores hold per task {seed: accuracy}. Without a shared seed the task means are compared."""
    differences = []
    for x, y in zip(*scores, strict=True):
        shared = paired_differences(x, y)
        differences.append(shared or [fmean(x.values()) - fmean(y.values())])
    fewest = min(len(x.keys() & y.keys()) for x, y in zip(*scores, strict=True))
    value, low, high, p_seeds = seeds_test(differences, weights)
    flat = intervals.average_interval(differences, [1 / len(differences)] * len(differences))
    over_tasks = intervals.mean_interval([fmean(values) for values in differences]).half
    first, second = ([list(cell.values()) for cell in side] for side in scores)
    chance = probability_of_improvement(first, second)
    chance_low, chance_high = improvement_interval(first, second, rng)
    return Pair(
        *names, value, low, high, p_seeds, tasks_test(differences), chance, chance_low, chance_high, fewest, flat, over_tasks,
        detectable_difference(differences, weights),
    )  # fmt: skip


def detectable_difference(differences: Scores, weights: Sequence[float], power: float = 0.8) -> float | None:
    """(t(0.975, dof) + t(power, dof)) V^(1/2): the true difference whose 95 % interval over seeds excludes 0 so often."""
    if min(len(values) for values in differences) < 2:
        return None
    _, spread, dof = intervals.satterthwaite(differences, weights)
    return float((stats.t.ppf((1 + LEVEL) / 2, dof) + stats.t.ppf(power, dof)) * spread) if spread > 0 else None


def compare_pairs(
    scores: Mapping[str, Sequence[Mapping[int, float]]], contrasts: Sequence[tuple[str, str]], weights: Sequence[float],
    rng: np.random.Generator,
) -> list[Pair]:  # fmt: skip
    """The contrasts, both tests corrected over these alone: they are chosen before the numbers are seen."""
    pairs = [compare_pair((a, b), (scores[a], scores[b]), weights, rng) for a, b in contrasts]
    with_seeds = [index for index, item in enumerate(pairs) if item.p_seeds is not None]
    by_seeds = dict(zip(with_seeds, holm([pairs[i].p_seeds or 0.0 for i in with_seeds]), strict=True))
    by_tasks = holm([item.p_tasks for item in pairs])
    return [
        Pair(**{**item.__dict__, "p_seeds_holm": by_seeds.get(index), "p_tasks_holm": float(by_tasks[index])})
        for index, item in enumerate(pairs)
    ]


@dataclass(frozen=True)
class Ranks:
    """Mean ranks over tasks (1 = best), Friedman's p, and Nemenyi's critical difference at 5 %."""

    mean: dict[str, float]
    friedman_p: float
    critical: float


def mean_ranks(task_means: Mapping[str, Sequence[float]]) -> Ranks | None:
    """Ranks of >= 3 methods on >= 2 common tasks (Demsar, JMLR 2006); None where there are fewer.

    CD = q(0.05, k, inf) / sqrt(2) * sqrt(k (k + 1) / (6 T)), q the studentized range, k methods, T tasks.
    """
    matrix = np.array(list(task_means.values()), dtype=float)
    if matrix.ndim != 2 or len(matrix) < 3 or matrix.shape[1] < 2:
        return None
    k, tasks = matrix.shape
    mean = stats.rankdata(-matrix, axis=0).mean(axis=1)
    q = stats.studentized_range.ppf(LEVEL, k, np.inf) / np.sqrt(2)
    different = np.ptp(matrix, axis=0).any()
    p = float(stats.friedmanchisquare(*matrix).pvalue) if different else 1.0
    named = {name: float(rank) for name, rank in zip(task_means, mean, strict=True)}
    return Ranks(named, p, float(q * np.sqrt(k * (k + 1) / (6 * tasks))))


def cliques(ranked: Ranks) -> list[tuple[float, float]]:
    """Longest spans of mean ranks within the critical difference, left to right: the bars of the diagram."""
    values = sorted(ranked.mean.values())
    spans: list[tuple[float, float]] = []
    for start in values:
        end = max(value for value in values if value <= start + ranked.critical)
        if end > start and (not spans or end > spans[-1][1]):
            spans.append((start, end))
    return spans


@dataclass(frozen=True)
class Agreement:
    """Spearman's rank correlation of the methods between two tasks: mean and lowest over the pairs of tasks."""

    mean: float
    lowest: float
    pairs: int
    methods: int  # the fewest that a pair shares


def agreement(means: Mapping[str, Mapping[str, float]], least: int = 5) -> Agreement | None:
    """Whether tasks put methods in one order: method -> task -> mean. Pairs of tasks with fewer than `least` common
    methods are left out, as are tasks on which all are equal; None where no pair is left."""
    tasks = sorted({task for row in means.values() for task in row})
    found, sizes = [], []
    for pair_of_tasks in combinations(tasks, 2):
        shared = [[row[task] for task in pair_of_tasks] for row in means.values() if set(pair_of_tasks) <= set(row)]
        columns = np.array(shared, dtype=float)
        if len(shared) >= least and np.ptp(columns, axis=0).all():
            found.append(float(stats.spearmanr(columns[:, 0], columns[:, 1]).statistic))
            sizes.append(len(shared))
    return Agreement(float(np.mean(found)), min(found), len(found), min(sizes)) if found else None


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of (cost, accuracy) points that no other beats in both, by rising cost."""
    front: list[int] = []
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if not front or points[index][1] > points[front[-1]][1]:
            front.append(index)
    return front


def knee(points: Sequence[tuple[float, float]], front: Sequence[int]) -> int | None:
    """The front point farthest above the chord from its cheapest to its best point, cost on a log scale.

    Both axes are scaled to [0, 1] first. None with fewer than three points on the front or where none is above.
    """
    if len(front) < 3:
        return None
    cost = np.log10([points[i][0] for i in front])
    gain = np.array([points[i][1] for i in front])
    above = (gain - gain[0]) / (gain[-1] - gain[0]) - (cost - cost[0]) / (cost[-1] - cost[0])
    best = int(np.argmax(above))
    return front[best] if above[best] > 0 else None
