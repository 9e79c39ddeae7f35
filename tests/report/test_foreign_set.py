"""A foreign set of more than 300 results (16 methods, 19 tasks, gaps, ragged seeds) through the whole report, against oracles."""

import re

import numpy as np
import pytest
from report_records import record, write
from scipy import stats

from karst_bench.report.report import write_report
from karst_bench.report.suite import load_suite

VTAB = load_suite("vtab")
METHODS = [f"foreign_{number:02}" for number in range(16)]
WHOLE = METHODS[:12]  # the others lack a task or more
CONTRASTS = [(first, METHODS[0]) for first in WHOLE[1:]]


@pytest.fixture(scope="module")
def scores():
    """method -> task -> {seed: accuracy}; seeds of a task are one to three, by the task and the method."""
    rng = np.random.default_rng(19)
    found = {}
    for number, method in enumerate(METHODS):
        tasks = [t for i, t in enumerate(VTAB.task_names) if number < 12 or (i + number) % 5]
        found[method] = {
            task: {seed: round(float(rng.uniform(20, 99)), 2) for seed in range(2 + (number * 7 + i) % 2 - (number == 5))}
            for i, task in enumerate(tasks)
        }
    return found


@pytest.fixture(scope="module")
def made(scores, tmp_path_factory):
    results = tmp_path_factory.mktemp("foreign")
    write(results, *(record(method, task, seed, value, hyper={"rank": 4})
                     for method, row in scores.items() for task, cell in row.items() for seed, value in cell.items()))  # fmt: skip
    declared = ",".join(":".join(pair) for pair in CONTRASTS)
    return write_report("vtab", {"own": results / "runs" / "vtab"}, results / "report" / "vtab", False, declared)


def rows_of(report, name):
    table = next(table for table in report.tables if table.name == name)
    return [row.cells for row in table.rows if row.source == "ours"]


def test_cells_and_averages_are_scipys(made, scores):
    rows = {cells["method"].text: cells for cells in rows_of(made, "table1")}
    assert made.left_out == [] and made.runs >= 300 and sorted(rows) == METHODS
    for method, row in scores.items():
        for task, cell in row.items():
            values, shown = list(cell.values()), rows[method][task]
            assert shown.value == pytest.approx(np.mean(values), abs=1e-6) and shown.n == len(values)
            if len(values) > 1:
                expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
                assert (shown.low, shown.high) == pytest.approx((expected.low, expected.high), abs=1e-6)
        average = rows[method]["task_avg"].value
        whole = np.mean([np.mean(list(cell.values())) for cell in row.values()]) if method in WHOLE else None
        assert average == (None if whole is None else pytest.approx(whole, abs=1e-6))


def test_contrasts_are_scipys_and_statsmodels(made, scores, oracle):
    found = rows_of(made, "pairs")
    assert [(cells["first"].text, cells["second"].text) for cells in found] == CONTRASTS
    for cells in found:
        x, y = (scores[cells[side].text] for side in ("first", "second"))
        gaps = {task: [x[task][s] - y[task][s] for s in sorted(x[task].keys() & y[task].keys())] for task in VTAB.task_names}
        means = [np.mean(gaps[task]) for task in VTAB.task_names]
        assert cells["flat_difference"].value == pytest.approx(np.mean(means), abs=1e-6)
        assert cells["difference"].value == pytest.approx(np.dot(means, VTAB.group_weights), abs=1e-6)
        assert cells["p_tasks"].value == pytest.approx(stats.wilcoxon(means).pvalue, abs=1e-6)
        over = stats.ttest_1samp(means, 0).confidence_interval(0.95)
        assert cells["task_half"].value == pytest.approx((over.high - over.low) / 2, abs=1e-6)
        pairs = [(list(x[task].values()), list(y[task].values())) for task in VTAB.task_names]
        chances = [stats.mannwhitneyu(a, b).statistic / (len(a) * len(b)) for a, b in pairs]
        assert cells["improvement"].value == pytest.approx(np.mean(chances), abs=1e-6)
        fewest = min(map(len, gaps.values()))
        assert cells["paired"].text == f"{fewest} seed{'s' if fewest > 1 else ''}"
    holm = oracle("statsmodels", "statsmodels.stats.multitest").multipletests
    expected = holm([cells["p_tasks"].value for cells in found], method="holm")[1]
    assert [cells["p_tasks_holm"].value for cells in found] == pytest.approx(list(expected), abs=1e-6)


def test_ranks_and_middle_means_are_scipys_and_rliables(made, scores, oracle):
    found = {cells["method"].text: cells for cells in rows_of(made, "statistics")}
    matrix = np.array([[np.mean(list(scores[m][t].values())) for t in VTAB.task_names] for m in WHOLE])
    ranks = stats.rankdata(-matrix, axis=0).mean(axis=1)
    assert [found[method]["rank"].value for method in WHOLE] == pytest.approx(list(ranks), abs=1e-6)
    (note,) = [note for table in made.tables for note in table.notes if "Friedman" in note]
    assert f"Friedman p = {stats.friedmanchisquare(*matrix).pvalue:.2g} " in note
    metrics = oracle("rliable", "rliable.metrics")
    for method in WHOLE:
        values = np.concatenate([list(cell.values()) for cell in scores[method].values()])
        assert found[method]["iqm"].value == pytest.approx(metrics.aggregate_iqm(values[:, None]), abs=1e-6)


def test_no_number_is_unreadable(made):
    for table in made.tables:
        text = (made.folder / f"{table.name}.md").read_text()
        cells = [cell.strip(" *") for line in text.splitlines() if line.startswith("| ") for cell in line.split("|")]
        assert not [cell for cell in cells if re.search(r"nan|inf\b|e[+-]\d\d|&lt;0\b(?!\.)|None", cell)], table.name


def test_a_part_of_the_gaps_is_offered_as_commands(made):
    assert all(gap.method not in METHODS for gaps in made.gaps.values() for gap in gaps), "no command runs what is not here"
