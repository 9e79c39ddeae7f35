"""How often the 95 % intervals of the tables hold: the simulation behind the table of docs/statistics.md.

    python scripts/interval_coverage.py               # prints the Markdown table, about six minutes
    python scripts/interval_coverage.py trials=500

True values are known here: every task has its mean 0 and a spread; an interval holds if it contains 0.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Annotated

import numpy as np
import typer
from scipy import stats

from karst_bench.cli.app import generator
from karst_bench.report.suite import load_suite

SIZES = (3, 5, 10)
SEED = 20250211
TASKS = 19
DRAWS = 1000

# Spread of the seeds of each of the 19 tasks in points; 0.3 to 3 is what reruns of VTAB-1K methods show.
EQUAL = np.full(TASKS, 0.6)
UNEQUAL = np.geomspace(0.2, 3.0, TASKS)
DOMINANT = np.array([6.0] + [0.2] * (TASKS - 1))


def normal(rng: np.random.Generator, n: int, spread: np.ndarray) -> np.ndarray:
    """Independent normal seeds."""
    return rng.normal(size=(n, TASKS)) * spread


def together(rng: np.random.Generator, n: int, spread: np.ndarray) -> np.ndarray:
    """A seed that is lucky in one task is a little lucky in all (correlation 0.1)."""
    return (np.sqrt(0.9) * rng.normal(size=(n, TASKS)) + np.sqrt(0.1) * rng.normal(size=(n, 1))) * spread


def barely_together(rng: np.random.Generator, n: int, spread: np.ndarray) -> np.ndarray:
    """As `together` with a correlation of 0.05."""
    return (np.sqrt(0.95) * rng.normal(size=(n, TASKS)) + np.sqrt(0.05) * rng.normal(size=(n, 1))) * spread


def skewed(rng: np.random.Generator, n: int, spread: np.ndarray) -> np.ndarray:
    """Most runs a little above, few far below: minus a standard exponential, centred; skewness -2, as near a ceiling."""
    return (1.0 - rng.exponential(size=(n, TASKS))) * spread


def accidents(rng: np.random.Generator, n: int, spread: np.ndarray) -> np.ndarray:
    """One run in twenty collapses by 8 spreads, as single VPT seeds on SVHN do; centred on the true mean."""
    fall = 8.0 * (rng.random((n, TASKS)) < 0.05)
    return (rng.normal(size=(n, TASKS)) - fall + 8.0 * 0.05) * spread


SCENARIOS: dict[str, tuple[Callable[..., np.ndarray], np.ndarray]] = {
    "normal, equal spread": (normal, EQUAL),
    "normal, spread 0.2 to 3 points": (normal, UNEQUAL),
    "as before, seeds correlated 0.05 across tasks": (barely_together, UNEQUAL),
    "as before, seeds correlated 0.1 across tasks": (together, UNEQUAL),
    "one task has nearly all of the spread (6 points, others 0.2)": (normal, DOMINANT),
    "skewed seeds, spread 0.2 to 3 points": (skewed, UNEQUAL),
    "spread 0.2 to 3 points, 5 % of runs collapse": (accidents, UNEQUAL),
}


def bounds_t(x: np.ndarray) -> tuple[float, float]:
    """Student's t over the seeds of the first task: the interval of a cell."""
    n = len(x)
    half = stats.t.ppf(0.975, n - 1) * x[:, 0].std(ddof=1) / np.sqrt(n)
    return x[:, 0].mean() - half, x[:, 0].mean() + half


def bounds_satterthwaite(x: np.ndarray, weight: Sequence[float]) -> tuple[float, float]:
    """The interval of an average for a full matrix (intervals.average_interval does ragged ones; a test compares them)."""
    n = len(x)
    parts = np.square(weight) * x.var(axis=0, ddof=1) / n
    variance = parts.sum()
    half = stats.t.ppf(0.975, variance**2 * (n - 1) / (parts**2).sum()) * np.sqrt(variance)
    mean = float(x.mean(axis=0) @ weight)
    return mean - half, mean + half


def bounds_per_seed(x: np.ndarray, weight: Sequence[float]) -> tuple[float, float]:
    """Student's t over the per-seed averages."""
    return bounds_t((x @ weight)[:, None])


def bounds_bootstrap(x: np.ndarray, weight: Sequence[float], rng: np.random.Generator) -> tuple[float, float]:
    """Stratified percentile bootstrap: runs redrawn within each task."""
    n = len(x)
    rows = rng.integers(0, n, size=(DRAWS, n, TASKS))
    means = x[rows, np.arange(TASKS)].mean(axis=1) @ weight
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def coverage(
    draw: Callable[..., np.ndarray], spread: np.ndarray, n: int, trials: int
) -> dict[str, tuple[float, float]]:
    """Interval name -> (share of trials in which it held, mean half width in points)."""
    rng = np.random.default_rng([SEED, n])
    weight = load_suite("vtab").group_weights
    found: dict[str, list[tuple[float, float]]] = {}
    for _ in range(trials):
        x = draw(rng, n, spread)
        found.setdefault("cell: t", []).append(bounds_t(x))
        found.setdefault("average: Satterthwaite (printed)", []).append(bounds_satterthwaite(x, weight))
        found.setdefault("average: t over per-seed averages", []).append(bounds_per_seed(x, weight))
        found.setdefault("average: stratified bootstrap", []).append(bounds_bootstrap(x, weight, rng))
    return {
        name: (float(np.mean([low <= 0 <= high for low, high in pairs])), float(np.mean([h - b for b, h in pairs])) / 2)
        for name, pairs in found.items()
    }


def rows(trials: int) -> Iterator[str]:
    """The Markdown table: coverage in per cent and mean half width in points, per scenario, interval and n."""
    yield "| seeds drawn | interval | " + " | ".join(f"n = {n}" for n in SIZES) + " |"
    yield "|---|---|" + "---|" * len(SIZES)
    for scenario, (draw, spread) in SCENARIOS.items():
        results = {n: coverage(draw, spread, n, trials) for n in SIZES}
        for name in results[SIZES[0]]:
            entries = (results[n][name] for n in SIZES)
            yield f"| {scenario} | {name} | " + " | ".join(f"{100 * c:.1f} % (±{h:.2f})" for c, h in entries) + " |"


def main(trials: Annotated[int, typer.Option(min=2, help="Simulations per row.")] = 4000) -> None:
    """Print how often the 95 % intervals hold, by simulation: the table of docs/statistics.md."""
    print("\n".join(rows(trials)))


if __name__ == "__main__":
    generator(main)
