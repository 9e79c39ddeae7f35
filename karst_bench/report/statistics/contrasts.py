"""The page of contrasts: differences of two methods that were named before the numbers were seen."""

from collections.abc import Sequence

import numpy as np

from karst_bench.errors import UserError
from karst_bench.report.statistics import aggregate, compare
from karst_bench.report.statistics.aggregate import MethodResults, ResultsByMethod
from karst_bench.report.statistics.compare import Pair
from karst_bench.report.statistics.intervals import LEVEL
from karst_bench.report.statistics.pages import SEED, interval_cell, rank_methods
from karst_bench.report.suite import MAIN, Suite, planned_rows
from karst_bench.report.table_model import Column, Table, TableCell, TableRow

REFERENCE = "lora"  # what every method is compared with unless contrasts are declared

Contrast = tuple[str, str]


def parse_contrasts(text: str) -> list[Contrast]:
    """`karst:lora,ssf:linear` as pairs of methods. Raises: UserError for what is no pair."""
    pairs = [tuple(item.split(":")) for item in text.split(",") if item]
    if odd := [pair for pair in pairs if len(pair) != 2 or pair[0] == pair[1]]:
        raise UserError(f"contrasts={':'.join(odd[0])} is no pair of two methods; for example contrasts=karst:lora,ssf:lora")
    return [(first, second) for first, second in pairs]


def chosen_contrasts(complete: Sequence[MethodResults], suite: Suite, declared: Sequence[Contrast]) -> list[Contrast]:
    """The contrasts by the labels of rows with every task: those declared, else each row against LoRA and against the first
    row of Table I."""
    label = {results.method: results.label for results in complete}
    if declared:
        return [(label[first], label[second]) for first, second in declared if first in label and second in label]
    order = [row.method for row in planned_rows(suite.sweeps[MAIN]) if row.method in label]
    named = [*order, *(method for method in label if method not in order)]
    against = [method for method in dict.fromkeys([REFERENCE, *named[:1]]) if method in label]
    found = [(label[first], label[second]) for second in against for first in named if first != second]
    return [pair for index, pair in enumerate(found) if pair[::-1] not in found[:index]]


def method_contrasts(ours: ResultsByMethod, suite: Suite, declared: Sequence[Contrast] = ()) -> list[Pair]:
    """The contrasts among the methods with every task."""
    tasks, complete = suite.task_names, aggregate.complete_results(ours, suite.task_names)
    scores = {
        results.label: [{run.seed: float(run.last or 0.0) for run in results.tasks[task].runs} for task in tasks]
        for results in complete
    }
    pairs = chosen_contrasts(complete, suite, declared)
    return compare.compare_pairs(scores, pairs, suite.group_weights, np.random.default_rng(SEED))


def whole_methods(ours: ResultsByMethod, suite: Suite) -> set[str]:
    """The methods with a row that has every task."""
    return {results.method for results in aggregate.complete_results(ours, suite.task_names)}


def p_value_cell(value: float | None) -> TableCell:
    """A p value: three digits, or 'n/a' where the seeds allow no test."""
    return TableCell("n/a") if value is None else TableCell(value=value, digits=3, floor=0.001)


def contrasts_table(ours: ResultsByMethod, suite: Suite, declared: Sequence[Contrast] = ()) -> Table:
    """Every contrast: difference with both intervals, both tests raw and corrected, probability of improvement."""
    columns = [
        Column("first", "First"),
        Column("second", "Second"),
        Column("difference", "Difference of Avg. (± over seeds)"),
        Column("flat_difference", "of Set Avg. (± over seeds)"),
        Column("task_half", "± over tasks"),
        Column("paired", "Paired"),
        Column("p_seeds", "p (seeds)", forms=("csv",)),
        Column("p_seeds_holm", "p over seeds (Holm)"),
        Column("p_tasks", "p (tasks)", forms=("csv",)),
        Column("p_tasks_holm", "p over tasks (Holm)"),
        Column("improvement", "P(improvement)"),
        Column("improvement_interval", "95 %"),
    ]
    found = method_contrasts(ours, suite, declared)
    rows = []
    for item in found:
        cells = {"first": TableCell(item.first), "second": TableCell(item.second)}
        cells["difference"] = TableCell(value=item.difference, digits=2, low=item.low, high=item.high)
        cells["flat_difference"] = TableCell(value=item.flat.value, digits=2, low=item.flat.low, high=item.flat.high)
        cells["task_half"] = TableCell(value=item.task_half, digits=2)
        cells["paired"] = TableCell(f"{item.shared} seed{'s' if item.shared > 1 else ''}" if item.shared else "no: means")
        for key in ("p_seeds", "p_seeds_holm", "p_tasks", "p_tasks_holm"):
            cells[key] = p_value_cell(getattr(item, key))
        cells["improvement"] = TableCell(value=item.improvement, digits=2)
        cells["improvement_interval"] = interval_cell(item.improvement, (item.improvement_low, item.improvement_high))
        rows.append(TableRow("ours", cells))
    notes = contrast_notes(found, len(suite.task_names), bool(declared))
    lacking = {method for pair in declared or [(REFERENCE, REFERENCE)] for method in pair} - whole_methods(ours, suite)
    if lacking:
        notes.append(f"No contrast with {', '.join(sorted(lacking))}: no row of theirs has every task.")
    notes += disagreements(found, ours, suite)
    return Table("pairs", f"Contrasts of methods ({suite.name})", columns, rows, notes)


def contrast_notes(found: Sequence[Pair], tasks: int, declared: bool) -> list[str]:
    """What was compared, what each column ranges over, and what size of difference could have been found."""
    if not found:
        return ["No contrast: it takes two methods with runs on every task."]
    which = "declared" if declared else "each row against LoRA and against the first row (contrasts=karst:lora declares others)"
    notes = [
        f"{len(found)} contrasts, {which}. ± over seeds: other seeds on these {tasks} tasks. ± over tasks: the same difference "
        "if these tasks were a sample of others.",
        "p over seeds: t test of the mean paired difference over tasks x shared seeds (Satterthwaite). p over tasks: Wilcoxon's "
        "signed-rank test of the task means. Both corrected by Holm over these contrasts. n/a: one shared seed, or no spread.",
        "P(improvement): chance that a run of the first beats a run of the second on the same task, mean over tasks; "
        "'no spread': one side wins every redraw, which at three seeds is no certainty.",
    ]
    sizes = [item.detectable for item in found if item.detectable is not None]
    least = 2 / 2**tasks  # every task on one side
    most = int((1 - LEVEL + 1e-12) / least)
    size = f"a difference of Avg. of {float(np.median(sizes)):.2f} points (median) is found in 80 % of tries" if sizes else (
        "without two shared seeds in every task no difference can be told from that of other seeds"
    )  # fmt: skip
    able = "enough for a correction over" if len(found) <= most else "too much for a correction over"
    notes.append(
        f"What could have been found: over seeds {size}; over {tasks} tasks Wilcoxon's p is at least {least:.2g}, {able} "
        f"{len(found)} contrasts (at most {most} could reject)."
    )
    if unpaired := [f"{item.first} and {item.second}" for item in found if not item.shared]:
        notes.append(f"Without a shared seed, so that means were compared: {'; '.join(unpaired)}.")
    return notes


def disagreements(found: Sequence[Pair], ours: ResultsByMethod, suite: Suite) -> list[str]:
    """A line where mean ranks put two methods the other way round than their difference does."""
    ranks = rank_methods(ours, suite)
    if ranks is None:
        return []
    odd = [item for item in found if item.difference * (ranks.mean[item.first] - ranks.mean[item.second]) > 0]
    return [
        f"Ranks and averages disagree on {item.first} ({ranks.mean[item.first]:.2f}) and {item.second} "
        f"({ranks.mean[item.second]:.2f}): the difference of Avg. is {item.difference:.2f}, a few tasks make it."
        for item in odd
    ]
