"""How long a sweep takes on several workers, by list scheduling: each run begins on the worker that is free first."""

import heapq
from collections.abc import Iterable, Sequence


def makespan(seconds: Sequence[float], workers: int) -> float:
    """Seconds until the last run ends when runs of these lengths begin in this order on so many workers."""
    free_at = [0.0] * workers
    for length in seconds:
        heapq.heapreplace(free_at, free_at[0] + length)
    return max(free_at)


def longest_first(seconds: Iterable[float]) -> list[float]:
    """The order whose makespan is at most 4/3 - 1/(3 workers) of the least there is (Graham 1969)."""
    return sorted(seconds, reverse=True)
