"""How long a sweep takes on several workers."""

import random

import pytest

from karst_bench.run.makespan import longest_first, makespan


@pytest.mark.parametrize(
    ("lengths", "workers", "longest", "given"),
    [
        ([3, 3, 2, 2, 2], 2, 7, 7),  # the least is 6: Graham's example of what the rule costs
        ([1, 1, 1, 3], 2, 3, 4),
        ([5], 8, 5, 5),
        ([1] * 6, 1, 6, 6),
    ],
)
def test_of_a_few_runs(lengths, workers, longest, given):
    assert makespan(longest_first(lengths), workers) == longest and makespan(lengths, workers) == given


def test_it_lies_between_its_bounds():
    rng = random.Random(0)
    for workers in (1, 3, 8):
        lengths = [rng.uniform(1, 9) for _ in range(40)]
        least = max(max(lengths), sum(lengths) / workers)
        found = makespan(longest_first(lengths), workers)
        assert least - 1e-9 <= found <= (4 / 3 - 1 / (3 * workers)) * least + max(lengths)
