"""The statistics pages: every interval of an average beside the others, ranks, and all pairs of methods."""

from collections.abc import Mapping, Sequence

import numpy as np

from karst_bench.report import catalog, figure_data
from karst_bench.report.statistics import compare, intervals
from karst_bench.report.statistics.aggregate import MethodResults
from karst_bench.report.statistics.compare import Pair, Ranks
from karst_bench.report.statistics.intervals import Estimate
from karst_bench.report.table_model import Column, Table, TableCell, TableRow, estimate_cell, with_ranks

SEED = 20250211


def rank_methods(ours: Mapping[str, list[MethodResults]], suite: str) -> Ranks | None:
    """Mean ranks of the methods with every task."""
    tasks = catalog.tasks(suite)
    rows = figure_data.complete_rows(ours, tasks)
    return compare.mean_ranks({row.label: [row.tasks[task].estimate.value for task in tasks] for row in rows})


def task_means(ours: Mapping[str, list[MethodResults]], tasks: Sequence[str]) -> dict[str, dict[str, float]]:
    """Method -> task -> mean of the method's first setting, where it ran."""
    first = {method: settings[0].tasks for method, settings in ours.items()}
    return {m: {task: cells[task].estimate.value for task in tasks if task in cells} for m, cells in first.items()}


def interval_cell(value: float, bounds: tuple[float, float], digits: int = 2) -> TableCell:
    """A cell that shows an interval and keeps its value for the CSV."""
    return TableCell(value=value, digits=digits, low=bounds[0], high=bounds[1], bracket=True)


def method_cells(row: MethodResults, suite: str, found: Ranks | None) -> dict[str, TableCell]:
    """One line of the first page. The bootstrap has its own stream per method, so that a new method moves no other."""
    tasks, by = catalog.tasks(suite), [float(w) for w in catalog.group_weights(suite)]
    scores = [row.tasks[task].scores for task in tasks]
    rng = np.random.default_rng([SEED, *row.method.encode()])
    mean = intervals.average_interval(scores, by)
    cells = {"method": TableCell(row.label), "group_avg": estimate_cell(mean, 2)}
    cells["task_avg"] = estimate_cell(intervals.average_interval(scores, [1 / len(tasks)] * len(tasks)), 2)
    if len({len(group) for group in scores}) == 1 and mean.n > 1:
        alone = intervals.per_seed_interval(scores, by)
        cells["per_seed"] = interval_cell(alone.value, (alone.low or 0.0, alone.high or 0.0))
    if mean.n > 1:
        cells["bootstrap"] = interval_cell(mean.value, intervals.bootstrap_interval(scores, intervals.weighted_mean(by), rng))
    middle = intervals.interquartile_mean(scores)
    low, high = intervals.bootstrap_interval(scores, intervals.trimmed_mean, rng) if mean.n > 1 else (None, None)
    cells["iqm"] = estimate_cell(Estimate(middle, mean.n, low, high), 2)
    errors = np.array([row.tasks[task].test_error for task in tasks])
    cells["test_se"] = TableCell(value=float(np.sqrt(np.sum((np.array(by) * errors) ** 2))), digits=2)
    if found is not None:
        cells["rank"] = TableCell(value=found.mean[row.label], digits=2)
    cells["ppt"] = TableCell(value=compare.ppt(cells["task_avg"].value or 0.0, 1e6 * row.params_m), digits=3)
    return cells


def methods_table(ours: Mapping[str, list[MethodResults]], suite: str) -> Table:
    """Methods with every task: the printed average, the other intervals beside it, IQM, test-set error, rank, PPT."""
    columns = [
        Column("method", "Method"),
        Column("group_avg", "Avg. ± t (Satterthwaite)", ranked=True),
        Column("per_seed", "95 %: t over per-seed averages"),
        Column("bootstrap", "95 %: stratified bootstrap"),
        Column("task_avg", "Set Avg.", ranked=True),
        Column("iqm", "Interquartile mean", ranked=True),
        Column("test_se", "Test-set s.e."),
        Column("rank", "Mean rank"),
        Column("ppt", "PPT", ranked=True),
    ]
    tasks = catalog.tasks(suite)
    rows, found = figure_data.complete_rows(ours, tasks), rank_methods(ours, suite)
    lines = [TableRow("ours", method_cells(row, suite, found)) for row in rows]
    notes = ["Methods with runs on every task, one setting each, protocol last, in points of top-1 accuracy."]
    if found is not None:
        notes.append(
            f"Friedman p = {found.friedman_p:.2g} over {len(tasks)} tasks; CD = {found.critical:.2f} (Nemenyi)."
        )
    agreed = compare.agreement(task_means(ours, tasks))
    if agreed is not None:
        notes.append(
            f"Agreement of tasks on the order of methods: mean Spearman correlation {agreed.mean:.2f} (lowest "
            f"{agreed.lowest:.2f}) over {agreed.pairs} pairs of tasks with at least {agreed.methods} methods in common, "
            "each method in its first setting."
        )
    shared = figure_data.variance_ratio(rows, tasks, [float(w) for w in catalog.group_weights(suite)])
    if shared is not None:
        notes.append(
            f"Independence of seeds across tasks: variance ratio {shared[0]:.2f} over {shared[1]} methods; 1 where "
            "they are independent, as the printed intervals take them; well above 1, read the per-seed column."
        )
    notes.append("Test-set s.e.: binomial error of the finite test sets in the average; not part of the ± over seeds.")
    if not rows:
        notes.append("No method has runs on every task yet.")
    return Table("statistics", f"Statistics of Table I ({suite})", columns, with_ranks(columns, lines), notes)


def method_pairs(ours: Mapping[str, list[MethodResults]], suite: str) -> list[Pair]:
    """All pairs of the methods with every task."""
    tasks = catalog.tasks(suite)
    scores = {
        row.label: [{run.seed: float(run.last or 0.0) for run in row.tasks[task].runs} for task in tasks]
        for row in figure_data.complete_rows(ours, tasks)
    }
    return compare.compare_pairs(scores, [float(w) for w in catalog.group_weights(suite)], np.random.default_rng(SEED))


def p_value_cell(value: float | None) -> TableCell:
    """A p value: three digits, or 'n/a' where the seeds allow no test."""
    return TableCell("n/a") if value is None else TableCell(value=value, digits=3, floor=0.001)


def pairs_table(found: Sequence[Pair], suite: str) -> Table:
    """Every pair: difference with interval, both tests raw and corrected, probability of improvement."""
    columns = [
        Column("first", "First"),
        Column("second", "Second"),
        Column("difference", "Difference of Avg."),
        Column("p_seeds", "p (seeds)", forms=("csv",)),
        Column("p_seeds_holm", "p over seeds (Holm)"),
        Column("p_tasks", "p (tasks)", forms=("csv",)),
        Column("p_tasks_holm", "p over tasks (Holm)"),
        Column("improvement", "P(improvement)"),
        Column("improvement_interval", "95 %"),
    ]
    lines = []
    for item in found:
        cells = {"first": TableCell(item.first), "second": TableCell(item.second)}
        cells["difference"] = TableCell(value=item.difference, digits=2, low=item.low, high=item.high)
        for key in ("p_seeds", "p_seeds_holm", "p_tasks", "p_tasks_holm"):
            cells[key] = p_value_cell(getattr(item, key))
        cells["improvement"] = TableCell(value=item.improvement, digits=2)
        cells["improvement_interval"] = interval_cell(item.improvement, (item.improvement_low, item.improvement_high))
        lines.append(TableRow("ours", cells))
    notes = [
        "p over seeds: t test of the mean paired difference over tasks x shared seeds (Satterthwaite): would other "
        "seeds keep the order on these tasks? p over tasks: Wilcoxon's signed-rank test of the task means: does the "
        "order hold across tasks? Both corrected by Holm over all pairs of this table.",
        "P(improvement): chance that a run of the first beats a run of the second on the same task, mean over tasks.",
    ]
    if not lines:
        notes.append("Fewer than two methods have runs on every task.")
    return Table("pairs", f"Pairs of methods ({suite})", columns, lines, notes)
