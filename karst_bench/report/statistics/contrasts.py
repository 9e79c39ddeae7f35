"""The page of contrasts: differences of two methods that were named before the numbers were seen."""

from collections.abc import Iterable, Sequence

import numpy as np

from karst_bench.config.sweep_files import default_contrasts
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


def parse_contrasts(words: Iterable[str]) -> list[Contrast]:
    """`karst:lora`, `ssf:linear` as pairs of methods. Raises: UserError for what is no pair."""
    pairs = [tuple(part.strip() for part in word.split(":")) for word in words if word.strip()]
    if odd := [pair for pair in pairs if len(pair) != 2 or pair[0] == pair[1] or not all(pair)]:
        raise UserError(f"contrasts={':'.join(odd[0])} is no pair of two methods; for example contrasts=karst:lora,ssf:lora")
    return [(first, second) for first, second in pairs]


def declared_pairs(given: str, suite: Suite, table: str = MAIN) -> list[Contrast]:
    """The contrasts of the command line, else of the sweep's file, else (for the main table) report.contrasts of
    conf/config.yaml."""
    if given.strip():
        return parse_contrasts(given.split(","))
    words = suite.sweeps[table].contrasts if table in suite.sweeps else ()
    if not words and table == MAIN:
        words = default_contrasts()
    return parse_contrasts(words)


def chosen_contrasts(complete: Sequence[MethodResults], suite: Suite, declared: Sequence[Contrast]) -> list[Contrast]:
    """The contrasts by the labels of rows with every task, within each kind of tuning: those declared, else each row against
    LoRA and against the first row of the kind."""
    found: list[Contrast] = []
    planned = [row.method for row in planned_rows(suite.sweeps[MAIN])] if MAIN in suite.sweeps else []
    for rows in aggregate.by_kind(complete).values():
        label = {results.method: results.label for results in rows}
        named = [*(method for method in planned if method in label), *(method for method in label if method not in planned)]
        against = [method for method in dict.fromkeys([REFERENCE, *named[:1]]) if method in label]
        pairs = declared or [(first, second) for second in against for first in named if first != second]
        here = [(label[first], label[second]) for first, second in pairs if first in label and second in label]
        found += [pair for index, pair in enumerate(here) if pair[::-1] not in here[:index]]
    return found


def method_contrasts(ours: ResultsByMethod, suite: Suite, declared: Sequence[Contrast] = ()) -> list[Pair]:
    """The contrasts among the methods with every task."""
    tasks, complete = suite.task_names, aggregate.complete_results(ours, suite.task_names)
    scores = {
        results.label: [{run.repeat: float(run.last or 0.0) for run in results.tasks[task].runs} for task in tasks]
        for results in complete
    }
    pairs = chosen_contrasts(complete, suite, declared)
    return compare.compare_pairs(scores, pairs, suite.group_weights, np.random.default_rng(SEED))


def without_contrast(ours: ResultsByMethod, suite: Suite, declared: Sequence[Contrast]) -> list[str]:
    """A line for the methods that lack a task, and one for those that lack a row of the same kind of tuning to stand against."""
    complete = aggregate.complete_results(ours, suite.task_names)
    kinds: dict[str, set[str]] = {}
    for results in complete:
        kinds.setdefault(results.method, set()).add(results.tuned)
    named = declared or [(method, REFERENCE) for method in kinds if method != REFERENCE]
    wanted = {method for pair in declared for method in pair} or {REFERENCE}
    lacking = sorted(wanted - kinds.keys())
    unlike = [
        f"{first} (tuned={'/'.join(sorted(kinds[first]))}) and {second} (tuned={'/'.join(sorted(kinds[second]))})"
        for first, second in named
        if first in kinds and second in kinds and not kinds[first] & kinds[second]
    ]
    lines = [f"No contrast with {', '.join(lacking)}: no row of theirs has every task."] if lacking and kinds else []
    return lines + ([f"No contrast across kinds of tuning: {'; '.join(unlike)}."] if unlike else [])


def p_value_cell(value: float | None) -> TableCell:
    """A p value: three digits, or 'n/a' where the seeds allow no test."""
    return TableCell("n/a") if value is None else TableCell(value=value, digits=3, floor=0.001)


def contrasts_table(ours: ResultsByMethod, suite: Suite, declared: Sequence[Contrast], name: str, title: str) -> Table:
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
    notes += without_contrast(ours, suite, declared)
    notes += disagreements(found, ours, suite)
    return Table(name, title, columns, rows, notes)


def contrast_notes(found: Sequence[Pair], tasks: int, declared: bool) -> list[str]:
    """What was compared, what each column ranges over, and what size of difference could have been found."""
    if not found:
        return ["No contrast: it takes two methods with runs on every task."]
    which = "declared" if declared else (
        "each row against LoRA and the first row of its kind of tuning (contrasts=karst:lora declares others)"
    )  # fmt: skip
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
    mean = {label: rank for ranks in rank_methods(ours, suite.task_names).values() for label, rank in ranks.mean.items()}
    ranked = [item for item in found if item.first in mean and item.second in mean]
    return [
        f"Ranks and averages disagree on {item.first} ({mean[item.first]:.2f}) and {item.second} ({mean[item.second]:.2f}): the "
        f"difference of Avg. is {item.difference:.2f}, a few tasks make it."
        for item in ranked
        if item.difference * (mean[item.first] - mean[item.second]) > 0
    ]
