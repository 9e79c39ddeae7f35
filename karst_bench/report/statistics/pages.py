"""The statistics page: every interval of an average beside the others, ranks, how far tasks agree."""

from collections.abc import Sequence

import numpy as np

from karst_bench.report.statistics import aggregate, compare, intervals
from karst_bench.report.statistics.aggregate import MethodResults, ResultsByMethod
from karst_bench.report.statistics.compare import Ranks
from karst_bench.report.statistics.intervals import Estimate
from karst_bench.report.suite import Suite
from karst_bench.report.table_model import Column, Table, TableCell, TableRow, estimate_cell, with_ranks

SEED = 20250211


def rank_methods(ours: ResultsByMethod, tasks: Sequence[str]) -> dict[str, Ranks]:
    """Kind of tuning -> mean ranks of its methods with every task, by label; the kind with most methods first."""
    found = {}
    for kind, rows in aggregate.by_kind(aggregate.complete_results(ours, tasks)).items():
        means = {results.label: [results.tasks[task].estimate.value for task in tasks] for results in rows}
        if (ranks := compare.mean_ranks(means)) is not None:
            found[kind] = ranks
    return found


def task_means(ours: ResultsByMethod, tasks: Sequence[str]) -> dict[str, dict[str, float]]:
    """Method -> task -> mean of the method's first setting, where it ran."""
    first = {method: settings[0].tasks for method, settings in ours.items()}
    return {m: {task: cells[task].estimate.value for task in tasks if task in cells} for m, cells in first.items()}


def consequence(correlation: float) -> str:
    """What a mean rank correlation between tasks means for whoever reads an order off them."""
    if correlation >= 0.8:
        return (
            "The tasks order the methods nearly alike: they are closer to one task than to as many as there are, so tests over "
            "tasks are too sure of themselves, and the order is that of this kind of task."
        )
    if correlation >= 0.5:
        return "An order read off some tasks is a fair guess on others of the suite, and less outside it."
    return (
        "One task's order says little about another's: an average decides by which tasks are in it, and another suite may well "
        "order the methods otherwise."
    )


def interval_cell(value: float, bounds: tuple[float, float], digits: int = 2) -> TableCell:
    """A cell that shows an interval and keeps its value for the CSV."""
    if bounds[0] == bounds[1]:  # a resampling that cannot move is no certainty
        return TableCell("no spread")
    return TableCell(value=value, digits=digits, low=bounds[0], high=bounds[1], bracket=True)


def method_cells(results: MethodResults, suite: Suite, found: Ranks | None) -> dict[str, TableCell]:
    """One row of the first page. The bootstrap has its own stream per method, so that a new method moves no other."""
    tasks, by = suite.task_names, suite.group_weights
    scores = [results.tasks[task].scores for task in tasks]
    rng = np.random.default_rng([SEED, *results.method.encode()])
    mean = intervals.average_interval(scores, by)
    every = results.run_ids(tasks)
    cells = {"method": TableCell(results.label, runs=every), "group_avg": estimate_cell(mean, 2, runs=every)}
    cells["task_avg"] = estimate_cell(intervals.average_interval(scores, suite.task_weights), 2, runs=every)
    if len({len(group) for group in scores}) == 1 and mean.n > 1:
        alone = intervals.per_seed_interval(scores, by)
        if alone.low is not None and alone.high is not None:
            cells["per_seed"] = interval_cell(alone.value, (alone.low, alone.high))
    if mean.n > 1:
        cells["bootstrap"] = interval_cell(
            mean.value, intervals.bootstrap_interval(scores, intervals.weighted_mean(by), rng)
        )
    middle = intervals.interquartile_mean(scores)
    low, high = intervals.bootstrap_interval(scores, intervals.trimmed_mean, rng) if mean.n > 1 else (None, None)
    cells["iqm"] = estimate_cell(Estimate(middle, mean.n, low, high), 2)
    errors = np.array([results.tasks[task].test_error for task in tasks])
    cells["test_se"] = TableCell(value=float(np.sqrt(np.sum((np.array(by) * errors) ** 2))), digits=2)
    if found is not None:
        cells["rank"] = TableCell(value=found.mean[results.label], digits=2)
    cells["ppt"] = TableCell(value=compare.ppt(cells["task_avg"].value or 0.0, 1e6 * results.params_m), digits=3)
    return cells


def methods_table(ours: ResultsByMethod, suite: Suite, name: str, title: str) -> Table:
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
    tasks = suite.task_names
    complete, found = aggregate.complete_results(ours, tasks), rank_methods(ours, tasks)
    rows = [TableRow("ours", method_cells(results, suite, found.get(results.tuned)), results.tuned) for results in complete]
    notes = [
        "Methods with runs on every task, one setting for each kind of tuning, in points of top-1 accuracy."
    ]
    for kind, ranks in found.items():
        notes.append(
            f"Mean rank, among the {len(ranks.mean)} rows of tuned={kind}: Friedman p = {ranks.friedman_p:.2g} over {len(tasks)} "
            f"tasks; CD = {ranks.critical:.2f} (Nemenyi)."
        )
    agreed = compare.agreement(task_means(ours, tasks))
    if agreed is not None:
        notes.append(
            f"Agreement of tasks on the order of methods: mean Spearman correlation {agreed.mean:.2f} (lowest "
            f"{agreed.lowest:.2f}) over {agreed.pairs} pairs of tasks with at least {agreed.methods} methods in common, "
            f"each method in its first setting. {consequence(agreed.mean)}"
        )
    notes.append(
        f"Every ± here ranges over seeds, on these {len(tasks)} tasks; it says nothing about other tasks. The page of contrasts "
        "has the interval over tasks beside it."
    )
    shared = aggregate.variance_ratio(complete, tasks, suite.group_weights)
    if shared is not None:
        low, high = aggregate.variance_ratio_range(complete, tasks, suite.group_weights, np.random.default_rng(SEED))
        verdict = "within it" if low <= shared[0] <= high else "outside it: read the per-seed column"
        notes.append(
            f"Independence of seeds across tasks: variance ratio {shared[0]:.2f} over {shared[1]} methods; independent seeds, as "
            f"the printed intervals take them, give 1 on average and {low:.2f} to {high:.2f} in 90 % of tries: this is {verdict}."
        )
    notes.append("Test-set s.e.: binomial error of the finite test sets in the average; not part of the ± over seeds.")
    if not rows:
        notes.append("No method has runs on every task yet.")
    return Table(name, title, columns, with_ranks(columns, rows), notes)
