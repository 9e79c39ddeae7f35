"""Tables I, II and III: paper rows and our rows side by side, what each number stands on, and what is missing."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

import pandas as pd

from karst_bench.config.sweep_files import SUITES, SweepFile
from karst_bench.report import figure_data
from karst_bench.report.footnotes import Footnotes
from karst_bench.report.paper import PrintedMean, printed_names
from karst_bench.report.published import PublishedRow, of_backbones, published_table_rows
from karst_bench.report.statistics import aggregate, compare
from karst_bench.report.statistics.aggregate import MethodResults, ResultsByMethod
from karst_bench.report.suite import Suite, load_suite, planned_rows
from karst_bench.report.table_model import FORMS, Column, Table, TableCell, TableRow, estimate_cell, with_ranks

BUDGET_MET = 0.85  # of a budget, what a method that keeps to it trains at least
IN_A_TERMINAL = 8  # columns of datasets that still fit
LAST_NOTE = (
    "Mean over seeds of the last epoch on the test set ± half of the 95 % interval (n seeds); a dash where nothing ran."
)
CHOSEN_NOTE = LAST_NOTE.replace("last epoch on the test set", "test accuracy at the epoch that the protocol in the key chooses")
VAL_NOTE = (
    "Accuracy on the val split, which hyper-parameters are chosen by: no test accuracy, and none to publish. Mean over seeds ± "
    "half of the 95 % interval (n seeds)."
)
PAPER_NOTE = (
    "Rows marked paper: as printed, one run each, mostly the best test epoch; their group means in Table I are from "
    "the printed cells."
)
MARK_NOTE = (
    "Best bold, second underlined, among like alone: rows of one source, one kind of tuning and one number of seeds."
)
MINI_NOTE = "The mini suite is generated and small: it is not VTAB, and no number of the paper belongs beside it."
AVERAGE_NOTE = (
    "Avg. = mean of the three group means, Set Avg. = mean over tasks; a row that lacks a task has no average. "
    "Every ± ranges over seeds, on these very tasks (averages: t with Satterthwaite's degrees of freedom); 'all equal': seeds "
    "without spread, which is no certainty. PPT is computed from Set Avg."
)
PEAK_NOTE = (
    "Avg. (peak on test) takes the best of ten looks at the test set (protocol=peek10) and is for comparison with "
    "published rows only; peeking gap = peak - last of the same runs, over the tasks where it was measured."
)


def leading_columns() -> list[Column]:
    """The columns every table opens with."""
    return [Column("method", "Method"), Column("source", "Source"), Column("params_m", "Params (M)")]


def trailing_columns() -> list[Column]:
    """Both averages, the protocol columns, PPT and the footnote key."""
    return [
        Column("group_avg", "Avg.", ranked=True),
        Column("task_avg", "Set Avg.", ranked=True),
        Column("peak_avg", "Avg. (peak on test)"),
        Column("peeking_gap", "Peeking gap"),
        Column("ppt", "PPT"),
        Column("provenance_key", "Key"),
    ]


def table_columns(layout: str, suite: Suite) -> list[Column]:
    """A column per task (the terminal shows the groups instead) or per group."""
    every = layout == "group"
    groups = [
        Column(group, group.capitalize(), True, FORMS if every else ("terminal", "csv")) for group in suite.groups
    ]
    tasks = [Column(task.task, task.title, True, ("md", "csv", "tex"), task.group.capitalize()) for task in suite.tasks]
    return [*leading_columns(), *([] if every else tasks), *groups, *trailing_columns()]


def source_of(results: MethodResults) -> str:
    """Whose runs a row is made of: reference, own, imported, or several."""
    found = {run.origin for run in results.runs} | {run.origin for conflict in results.conflicts for run in conflict.runs}
    return "+".join(sorted(found))


def our_cells(results: MethodResults, suite: Suite, footnotes: Footnotes) -> dict[str, TableCell]:
    """All cells that any of the tables shows for one of our rows."""
    names = suite.task_names
    every = results.run_ids(names)
    cells = {"method": TableCell(results.label, runs=every), "source": TableCell(source_of(results))}
    cells["provenance_key"] = TableCell(footnotes.keys(results))
    for task in names:
        if task in results.tasks:
            found = results.tasks[task]
            cells[task] = estimate_cell(found.estimate, test_error=found.test_error, runs=results.run_ids([task]))
    for conflict in results.conflicts:
        there = cells.get(conflict.cell, TableCell())
        cells[conflict.cell] = replace(there, text="conflict", runs=(*there.runs, *(run.id for run in conflict.runs)))
    if results.tasks:
        cells["params_m"] = TableCell(value=results.params_m, digits=2 if suite.name == "vtab" and suite.sweeps else 4)
    for group, members in suite.groups.items():
        mean = aggregate.mean_over(results, members, [1 / len(members)] * len(members))
        cells[group] = estimate_cell(mean, runs=results.run_ids(members))
    flat = aggregate.mean_over(results, names, suite.task_weights)
    cells["group_avg"] = estimate_cell(aggregate.mean_over(results, names, suite.group_weights), runs=every)
    cells["task_avg"] = estimate_cell(flat, runs=every)
    cells["peak_avg"] = estimate_cell(aggregate.peak_over(results, names, suite.group_weights), runs=every)
    gap = aggregate.peeking_gap(results, names)
    if gap is not None:
        some = f"{gap[1]} of {len(names)} tasks" if gap[1] < len(names) else ""
        cells["peeking_gap"] = replace(estimate_cell(gap[0], 2, runs=every), text=some)
    if flat is not None:
        cells["ppt"] = TableCell(value=compare.ppt(flat.value, 1e6 * results.params_m), digits=3)
    return cells


def paper_cells(name: str, printed: Mapping[Any, Any], wrong: list[PrintedMean], suite: Suite) -> dict[str, TableCell]:
    """The cells of a printed row, a misprint with the value its own cells give."""
    cells = {"method": TableCell(name), "source": TableCell("paper")}
    for column, value in printed.items():
        if not pd.isna(value):
            cells[column] = TableCell(value=value, digits=2 if column == "params_m" else 1)
    for misprint in wrong:
        if misprint.method == name:
            cells[misprint.column] = replace(cells[misprint.column], recomputed=misprint.recomputed)
    for group, members in suite.groups.items():
        if set(members) <= set(cells):
            cells[group] = TableCell(value=fmean(printed[task] for task in members))
    if "task_avg" in cells and "params_m" in cells:
        cells["ppt"] = TableCell(value=compare.ppt(printed["task_avg"], 1e6 * printed["params_m"]), digits=3)
    return cells


def table_rows(
    sweep: SweepFile, suite: Suite, ours: ResultsByMethod
) -> tuple[list[MethodResults], list[MethodResults], list[MethodResults]]:
    """Of the runs of a table: a row for each planned method, further rows that it has room for, and what stands elsewhere."""
    planned = list(dict.fromkeys(row.method for row in planned_rows(sweep)))
    extra, left = further_results(planned, ours, suite, bool(sweep.table and sweep.table.further_methods))
    return [ours[method][0] for method in planned if method in ours], extra, left


def side_by_side(
    sweep: SweepFile, suite: Suite, ours: ResultsByMethod, frame: pd.DataFrame | None, wrong: Sequence[PrintedMean],
    others: Sequence[PublishedRow] = (),
) -> Table:  # fmt: skip
    """Paper row, our row, paper row, ...; then our further methods and settings that cover every task, then numbers of others.

    frame is None where the paper has no such table (the mini suite): then only our rows stand there.
    """
    assert sweep.table is not None
    mine = [misprint for misprint in wrong if misprint.table == sweep.name]
    printed = {} if frame is None else {str(k): row for k, row in frame.to_dict(orient="index").items()}
    names = {} if frame is None else printed_names(sweep, frame)
    footnotes, rows = Footnotes(), []
    planned = list(dict.fromkeys(row.method for row in planned_rows(sweep)))
    first, extra, left = table_rows(sweep, suite, ours)
    for method in planned:
        if (name := names.get(method, "")) in printed:
            rows.append(TableRow("paper", paper_cells(name, printed.pop(name), mine, suite)))
        if method in ours:
            rows.append(TableRow("ours", our_cells(ours[method][0], suite, footnotes), ours[method][0].tuned))
    rows += [TableRow("paper", paper_cells(name, row, mine, suite)) for name, row in printed.items()]
    rows += [TableRow("ours", our_cells(results, suite, footnotes), results.tuned) for results in extra]
    printed_by_others, sources = published_table_rows(of_backbones(others, sweep.values("backbone")), suite)
    rows += printed_by_others
    columns = table_columns(sweep.table.columns, suite)
    shown = [*extra, *first]
    last = set(sweep.table.protocols) <= {"last", "peek10"}
    notes = [LAST_NOTE if last else CHOSEN_NOTE]
    notes += [note for note, told in ((MINI_NOTE, suite.name == "mini"), (PAPER_NOTE, frame is not None)) if told]
    if absent := [method for method in planned if method not in ours]:
        notes.append(f"No run, hence no row: {', '.join(absent)}; missing.md has the commands.")
    notes += [MARK_NOTE, AVERAGE_NOTE, PEAK_NOTE, *map(misprint_note, mine), *footnotes.notes(), *tuning_notes(shown)]
    if sources:
        notes.append("Rows marked published: numbers of others as they print them, n where they say it; in no average of ours.")
    notes += [*sources, *left_notes(left), *origin_notes(shown)]
    notes += [conflict.line for results in [*shown, *left] for conflict in results.conflicts]
    return Table(sweep.name, sweep.title, columns, with_ranks(columns, rows), notes)


def further_results(
    shown: Sequence[str], ours: ResultsByMethod, suite: Suite, further: bool
) -> tuple[list[MethodResults], list[MethodResults]]:
    """Results beyond the planned rows: other methods, other settings with every task; and the settings left out."""
    found: list[MethodResults] = []
    left: list[MethodResults] = []
    for method, settings in ours.items():
        if method not in shown and not further:
            continue
        candidates = settings[1:] if method in shown else settings
        for results in candidates:
            complete = set(suite.task_names) <= set(results.tasks)
            if results is settings[0] or (complete and not figure_data.only_axes_differ(settings[0], results)):
                found.append(results)
            else:
                left.append(results)
    return found, left


def left_notes(left: Sequence[MethodResults]) -> list[str]:
    """A line that says where the settings without room in a table stand."""
    if not left:
        return []
    runs = sum(len(results.runs) for results in left)
    return [f"{runs} runs of {len(left)} further settings (they lack tasks, or are the ablation's) stand in a table of their own."]


def origin_notes(shown: Sequence[MethodResults]) -> list[str]:
    """A line where rows come from several folders."""
    origins = {run.origin for results in shown for run in results.runs}
    told = {"reference": "the records that come with the repository", "own": "runs of yours", "imported": "records of others"}
    words = "; ".join(f"{name}: {text}" for name, text in told.items() if name in origins)
    return [f"Source: {words}."] if len(origins) > 1 else []


def tuning_notes(shown: Sequence[MethodResults]) -> list[str]:
    """Lines on rows with values from different searches in one table, on rows that a search has no values for, and on budgets that
    left nothing out."""
    kinds = sorted({results.tuned for results in shown})
    text = f"Rows of tuned={', tuned='.join(kinds)} stand here together: compare within one kind only."
    notes = [text] if len(kinds) > 1 else []
    for kind in kinds:
        bare = sorted({row.method for row in shown if row.tuned == kind != "none" and not any(run.listed for run in row.runs)})
        notes += [f"tuned={kind} has no values for {', '.join(bare)}: they ran at their own defaults."] if bare else []
    return [*notes, *(note for results in shown if (note := _unspent(results)))]


def _unspent(results: MethodResults) -> str:
    """What to say of a row whose method selects what trains by a budget, of which more than its tolerance is left over."""
    budgets = [run.hyper.get("budget") for run in results.runs]
    most = max((run.params for run in results.runs), default=0)
    if not budgets or not all(isinstance(budget, int) and most < BUDGET_MET * budget for budget in budgets):
        return ""
    return (f"{results.method}: its budget of {budgets[0]:,} scalars is more than the backbone can spend ({most:,} train): every "
            "matrix has its module, and nothing was selected.")  # fmt: skip


def misprint_note(item: PrintedMean) -> str:
    """One line per misprint."""
    return (
        f"[!] {item.method}: the paper prints {item.printed:.1f}, its own cells give {item.recomputed:.2f}; "
        "ranked by the recomputed value."
    )


def group_table(name: str, title: str, footing: str, view: Suite, rows: Sequence[MethodResults]) -> Table:
    """Method x dataset of one group of runs; averages over its columns where some row has all of them and they are no shots."""
    footnotes = Footnotes()
    forms = FORMS if len(view.tasks) <= IN_A_TERMINAL else ("md", "csv", "tex")
    tasks = [Column(task.task, task.title, True, forms) for task in view.tasks]
    averaged = len(tasks) > 1 and not any("@" in column.key for column in tasks)
    averaged = averaged and any({column.key for column in tasks} <= results.tasks.keys() for results in rows)
    whole = {task.option for task in view.tasks} in [{task.option for task in load_suite(name).tasks} for name in SUITES]
    wanted = {"task_avg", "peak_avg", "peeking_gap", "ppt"} if averaged else set()
    kept = [c for c in trailing_columns() if c.key == "provenance_key" or c.key in wanted or (c.key == "group_avg" and whole)]
    trailing = [replace(column, title="Mean") if column.key == "task_avg" and not whole else column for column in kept]
    made = [TableRow("ours", our_cells(results, view, footnotes), results.tuned) for results in rows]
    filled = {key for row in made for key, cell in row.cells.items() if not cell.empty}
    columns = [column for column in (*leading_columns(), *tasks, *trailing) if column.key in filled]
    average = f"Mean: over these {len(tasks)} columns, of rows that have them all. PPT is computed from it."
    notes = [VAL_NOTE if footing == "val" else LAST_NOTE if footing == "last" else CHOSEN_NOTE, MARK_NOTE]
    notes += [AVERAGE_NOTE if whole else average] if averaged else []
    notes += [*footnotes.notes(), *tuning_notes(rows), *origin_notes(rows), *(c.line for row in rows for c in row.conflicts)]
    return Table(name, title, columns, with_ranks(columns, made), notes)
