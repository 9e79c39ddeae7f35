"""Intervals and comparisons against scipy, rliable and statsmodels (conftest.oracle), and against cases small enough for a hand."""

import numpy as np
import pytest
from scipy import stats

from karst_bench.report.statistics import compare, intervals
from karst_bench.report.suite import load_suite
from scripts import interval_coverage

VTAB = load_suite("vtab")


@pytest.fixture
def matrices() -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(3)
    return [(rng.uniform(20, 99, (n, t)), rng.uniform(20, 99, (n, t))) for n, t in [(3, 19), (5, 9), (10, 4), (2, 1)]]


def columns(matrix: np.ndarray) -> list[list[float]]:
    return [list(map(float, column)) for column in matrix.T]


def test_cell_is_students_t(matrices):
    for matrix, _ in matrices:
        for column in columns(matrix):
            found = intervals.mean_interval(column)
            expected = stats.ttest_1samp(column, 0).confidence_interval(0.95)
            assert found.value == pytest.approx(np.mean(column), abs=1e-9)
            assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_cell_by_hand():
    found = intervals.mean_interval([70.0, 71.0, 72.0])
    assert found.value == 71 and found.n == 3
    assert found.half == pytest.approx(4.302652729911275 * 1 / 3**0.5)
    assert intervals.mean_interval([70.0]).half is None
    assert intervals.mean_interval([70.0, 70.0]).half is None, "two equal seeds are no certainty"


def test_average_of_one_task_is_the_cell():
    scores = [60.0, 64.0, 65.5, 61.0]
    assert intervals.average_interval([scores], [1.0]).low == pytest.approx(intervals.mean_interval(scores).low)


def test_average_of_two_tasks_is_welch():
    a, b = [70.0, 72.0, 75.0], [60.0, 60.5, 61.0, 63.0]
    expected = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    found = intervals.average_interval([a, b], [1.0, -1.0])
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_an_average_is_rounded_once():
    """So that no processor's order of summing shows in a table."""
    assert intervals.weighted_sum([1.0, 1.0, 1.0], [1e16, 1.0, -1e16]) == 1.0


def test_average_without_spread_or_with_one_seed():
    assert intervals.average_interval([[70.0, 70.0], [80.0, 80.0]], [0.5, 0.5]).half is None
    single = intervals.average_interval([[70.0], [80.0, 81.0]], [0.5, 0.5])
    assert single.value == 75.25 and single.half is None and single.n == 1


def test_per_seed_is_t_over_averages(matrices):
    matrix, _ = matrices[0]
    weights = VTAB.group_weights
    expected = stats.ttest_1samp(matrix @ weights, 0).confidence_interval(0.95)
    assert intervals.per_seed_interval(columns(matrix), list(weights)).high == pytest.approx(expected.high, abs=1e-6)


def test_point_statistics_agree_with_rliable(matrices, oracle):
    metrics = oracle("rliable", "rliable.metrics")
    for x, y in matrices:
        equal = [1 / x.shape[1]] * x.shape[1]
        assert intervals.interquartile_mean(columns(x)) == pytest.approx(metrics.aggregate_iqm(x), abs=1e-6)
        assert intervals.average_interval(columns(x), equal).value == pytest.approx(metrics.aggregate_mean(x), abs=1e-6)
        expected = metrics.probability_of_improvement(x, y)
        assert compare.probability_of_improvement(columns(x), columns(y)) == pytest.approx(expected, abs=1e-6)


def scipys_bootstrap(x, statistic):
    """SciPy's percentile bootstrap of several samples redraws each by itself, as runs are redrawn within each task."""
    found = stats.bootstrap(
        tuple(x.T), statistic, method="percentile", n_resamples=9999, rng=np.random.default_rng(1), vectorized=True
    )
    return tuple(found.confidence_interval)


def middle_half(*tasks, axis=-1):
    """The interquartile mean from its definition: the mean of all runs but a quarter of them, cut at each end."""
    runs = np.sort(np.concatenate(tasks, axis=axis), axis=axis)
    cut = runs.shape[axis] // 4
    return np.take(runs, range(cut, runs.shape[axis] - cut), axis=axis).mean(axis=axis)


@pytest.mark.parametrize("which", range(3))
def test_the_stratified_bootstrap_is_scipys(matrices, which):
    x, _ = matrices[which]
    weights = np.arange(1.0, x.shape[1] + 1)  # no two alike, so that a swap of tasks is seen
    weights /= weights.sum()
    expected = scipys_bootstrap(
        x, lambda *tasks, axis=-1: sum(w * task.mean(axis=axis) for w, task in zip(weights, tasks, strict=True))
    )
    found = intervals.bootstrap_interval(
        columns(x), intervals.weighted_mean(list(weights)), np.random.default_rng(2), 9999
    )
    width = expected[1] - expected[0]
    assert found == pytest.approx(expected, abs=0.03 * width)
    expected = scipys_bootstrap(x, middle_half)
    found = intervals.bootstrap_interval(columns(x), intervals.trimmed_mean, np.random.default_rng(3), 9999)
    assert found == pytest.approx(expected, abs=0.04 * (expected[1] - expected[0]))


def test_test_set_error_by_hand():
    assert intervals.test_set_error(80.0, 711) == pytest.approx(100 * (0.8 * 0.2 / 711) ** 0.5)
    assert intervals.test_set_error(100.0, 711) == 0


def test_coverage_code_is_the_code_of_the_tables():
    x = np.random.default_rng(0).normal(70, 1, (3, 19))
    weights = VTAB.group_weights
    found = intervals.average_interval(columns(x), list(weights))
    assert interval_coverage.bounds_satterthwaite(x, weights) == pytest.approx((found.low, found.high))
    alone = intervals.per_seed_interval(columns(x), list(weights))
    assert interval_coverage.bounds_per_seed(x, weights) == pytest.approx((alone.low, alone.high))


def test_printed_interval_covers_at_three_seeds():
    held = interval_coverage.coverage(interval_coverage.normal, interval_coverage.UNEQUAL, 3, trials=400)
    assert 0.92 <= held["average: Satterthwaite (printed)"][0] <= 0.99
    assert 0.92 <= held["cell: t"][0] <= 0.99
    assert held["average: stratified bootstrap"][0] < 0.93


@pytest.mark.parametrize(("accuracy", "params_m", "printed"), [(75.9, 0.33, 0.748), (75.99, 0.78, 0.735), (80, 0, 0.8)])
def test_ppt_by_its_formula(accuracy, params_m, printed):
    assert compare.ppt(accuracy, params_m * 1e6) == pytest.approx(printed, abs=0.0006)


def test_holm_by_hand_and_statsmodels(oracle):
    p = [0.01, 0.04, 0.03, 0.005]
    assert compare.holm(p) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    multitest = oracle("statsmodels", "statsmodels.stats.multitest")
    many = np.random.default_rng(0).uniform(0, 0.2, 40)
    assert compare.holm(many) == pytest.approx(multitest.multipletests(many, method="holm")[1], abs=1e-12)
    assert len(compare.holm([])) == 0


def test_ties_count_one_half():
    assert compare.probability_of_improvement([[70.0, 70.0]], [[70.0, 70.0]]) == 0.5
    assert compare.probability_of_improvement([[70.0, 72.0], [1.0]], [[71.0], [2.0]]) == 0.25
    low, high = compare.improvement_interval([[5.0, 6.0]], [[1.0, 2.0]], np.random.default_rng(0))
    assert (low, high) == (1, 1)


def test_paired_tests_against_scipy():
    rng = np.random.default_rng(8)
    x, y = rng.normal(71, 1, (3, 19)), rng.normal(70, 1, (3, 19))
    sides = [[dict(enumerate(map(float, column))) for column in side.T] for side in (x, y)]
    equal = [1 / 19] * 19
    found = compare.compare_pair(("a", "b"), (sides[0], sides[1]), equal, np.random.default_rng(0))
    difference = x - y
    assert found.difference == pytest.approx(difference.mean())
    assert found.p_tasks == pytest.approx(stats.wilcoxon(difference.mean(axis=0)).pvalue)
    error = np.sqrt((difference.var(axis=0, ddof=1) / 3).sum()) / 19
    parts = difference.var(axis=0, ddof=1) / 3 / 19**2
    dof = parts.sum() ** 2 / (parts**2 / 2).sum()
    assert found.p_seeds == pytest.approx(2 * stats.t.sf(abs(difference.mean()) / error, dof))


def test_pairs_use_shared_seeds_only():
    left, right = [{0: 70.0, 1: 71.0, 2: 72.0}], [{1: 70.0, 2: 70.0, 7: 10.0}]
    found = compare.compare_pair(("a", "b"), (left, right), [1.0], np.random.default_rng(0))
    assert found.difference == 1.5 and found.p_seeds == pytest.approx(stats.ttest_1samp([1.0, 2.0], 0).pvalue)
    apart = compare.compare_pair(("a", "b"), ([{0: 70.0}], [{5: 69.0}]), [1.0], np.random.default_rng(0))
    assert apart.difference == 1.0 and apart.p_seeds is None and (found.shared, apart.shared) == (2, 0)


def test_a_difference_has_an_interval_over_seeds_and_one_over_tasks():
    """Two tasks, two seeds, by hand: the tasks' mean differences are 1 and 5, so over tasks s = 2 sqrt(2)."""
    left, right = [{0: 71.0, 1: 73.0}, {0: 65.0, 1: 67.0}], [{0: 71.0, 1: 71.0}, {0: 60.0, 1: 62.0}]
    found = compare.compare_pair(("a", "b"), (left, right), [0.5, 0.5], np.random.default_rng(0))
    assert found.flat.value == 3.0 and found.task_half == pytest.approx(12.706204736 * 2)
    spread, dof = 0.5 * (2 / 2) ** 0.5, 1  # one task alone has any spread
    assert found.detectable == pytest.approx((stats.t.ppf(0.975, dof) + stats.t.ppf(0.8, dof)) * spread)


def test_contrasts_are_corrected_over_themselves():
    rng = np.random.default_rng(1)
    scores = {n: [dict(enumerate(rng.normal(m, 1, 3))) for _ in range(9)] for n, m in (("a", 70), ("b", 75), ("c", 70))}
    chosen = [("a", "b"), ("c", "b")]
    found = compare.compare_pairs(scores, chosen, [1 / 9] * 9, rng)
    assert [(pair.first, pair.second) for pair in found] == chosen
    assert [pair.p_tasks_holm for pair in found] == pytest.approx(compare.holm([pair.p_tasks for pair in found]))
    assert compare.compare_pairs({"a": scores["a"]}, [], [1 / 9] * 9, rng) == []


def test_equal_methods_differ_by_nothing():
    same = [{0: 70.0, 1: 71.0}, {0: 60.0, 1: 61.0}]
    found = compare.compare_pair(("a", "b"), (same, same), [0.5, 0.5], np.random.default_rng(0))
    assert (found.difference, found.p_seeds, found.p_tasks, found.improvement) == (0, None, 1, 0.5)


def test_ranks_by_hand():
    found = compare.mean_ranks({"a": [90, 80, 70], "b": [80, 80, 60], "c": [70, 70, 65]})
    assert found.mean == pytest.approx({"a": 3.5 / 3, "b": 6.5 / 3, "c": 8 / 3})
    # Demsar 2006, Table 5: q = 2.343 for three methods; CD = q sqrt(k (k + 1) / (6 T))
    assert found.critical == pytest.approx(2.343 * (12 / 18) ** 0.5, abs=2e-3)
    assert compare.mean_ranks({"a": [1, 2], "b": [2, 1]}) is None
    assert compare.mean_ranks({"a": [1, 1], "b": [1, 1], "c": [1, 1]}).friedman_p == 1


def test_agreement_by_hand():
    """Spearman: 1 - 6 sum d^2 / (n (n^2 - 1)). x and y agree but for one swap (rho 0.9); z turns x around (-1)."""
    x, y, z = [50, 40, 30, 20, 10], [50, 40, 30, 10, 20], [1, 2, 3, 4, 5]
    means = {name: {"x": x[i], "y": y[i], "z": z[i]} for i, name in enumerate("abcde")}
    found = compare.agreement(means | {"alone": {"x": 99.0}})
    assert (found.mean, found.lowest) == pytest.approx(((0.9 - 1 - 0.9) / 3, -1))
    assert (found.pairs, found.methods) == (3, 5)
    assert compare.agreement({name: means[name] for name in "abcd"}) is None
    assert compare.agreement({name: {"x": 1.0, "y": 2.0} for name in "abcde"}) is None


def test_cliques_are_the_longest_spans():
    made = compare.Ranks({"a": 1.0, "b": 1.5, "c": 2.0, "d": 4.0}, 0.01, 1.0)
    assert compare.cliques(made) == [(1.0, 2.0)]


def test_pareto_and_knee_by_hand():
    points = [(0.1, 70.0), (0.2, 74.0), (0.2, 73.0), (0.4, 75.0), (0.8, 75.5), (0.5, 60.0), (0.6, 75.0)]
    front = compare.pareto_front(points)
    assert front == [0, 1, 3, 4]
    # above the chord (log cost): 0, 0.727 - 1/3, 0.909 - 2/3, 0
    assert compare.knee(points, front) == 1
    assert compare.knee(points, front[:2]) is None
    assert compare.knee([(0.1, 70.0), (0.2, 71.0), (0.4, 74.0)], [0, 1, 2]) is None
