"""Tables I, II and III: paper rows and our rows side by side, what each number stands on, and what is missing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from karst_bench.report import catalog, figure_data, paper
from karst_bench.report.footnotes import Footnotes
from karst_bench.report.statistics import aggregate, compare
from karst_bench.report.statistics.aggregate import MethodResults
from karst_bench.report.statistics.intervals import Estimate
from karst_bench.report.table_model import Column, Table, TableCell, TableRow, estimate_cell, with_ranks

OURS_NOTE = (
    "Mean over seeds of the last epoch on the test set ± half of the 95 % interval (n seeds); a dash where nothing ran."
)
PAPER_NOTE = (
    "Rows marked paper: as printed, one run each, mostly the best test epoch; their group means in Table I are from "
    "the printed cells. Best bold and second underlined, among paper rows and among our rows apart."
)
MINI_NOTE = "The mini suite is generated and small: it is not VTAB, and no number of the paper belongs beside it."
AVERAGE_NOTE = (
    "Avg. = mean of the three group means, Set Avg. = mean over tasks; a row that lacks a task has no average. "
    "Intervals of averages: t with Satterthwaite's degrees of freedom over the seeds. PPT is computed from Set Avg."
)
PEAK_NOTE = (
    "Avg. (peak on test) takes the best of ten looks at the test set (protocol=peek10) and is for comparison with "
    "published rows only; peeking gap = peak - last of the same runs, over the tasks where it was measured."
)


@dataclass(frozen=True)
class TableSpec:
    """What a table is: name, title, rows in the paper's order, columns, backbone, and whether other methods join."""

    name: str
    title: str
    names: tuple[str, ...]
    columns: list[Column]
    backbone: str
    further: bool


def table_specs(suite: str) -> list[TableSpec]:
    """The three tables of a suite."""
    vit, swin, word = catalog.VIT[suite], catalog.SWIN[suite], "VTAB-1K" if suite == "vtab" else "the mini suite"
    names = {"vit_b16": "ViT-B/16", "swin_b": "Swin-B"}
    return [
        TableSpec("table1", f"Table I: {word}, {names.get(vit, vit)}", catalog.TABLE1, task_columns(suite), vit, True),
        TableSpec("table2", f"Table II: {word}, {names.get(swin, swin)}", catalog.TABLE2, group_columns(), swin, True),
        TableSpec(
            "table3", f"Table III: with and without rescaling and shifting (RST), {word}, {names.get(vit, vit)}",
            catalog.TABLE3, group_columns(), vit, False,
        ),
    ]  # fmt: skip


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


def task_columns(suite: str) -> list[Column]:
    """Table I: one column per task; the terminal shows the groups instead."""
    tasks = [
        Column(task, catalog.title(task), True, ("md", "csv", "tex"), group.capitalize())
        for group, members in catalog.TASKS[suite].items() for task in members
    ]  # fmt: skip
    groups = [Column(group, group.capitalize(), True, ("terminal", "csv")) for group in catalog.GROUPS]
    return [*leading_columns(), *tasks, *groups, *trailing_columns()]


def group_columns() -> list[Column]:
    """Tables II and III: one column per group."""
    return [*leading_columns(), *(Column(group, group.capitalize(), True) for group in catalog.GROUPS), *trailing_columns()]


def group_means(row: MethodResults, suite: str) -> dict[str, Estimate | None]:
    """Natural, Specialized and Structured means of a row."""
    return {
        group: aggregate.mean_over(row, members, [1 / len(members)] * len(members))
        for group, members in catalog.TASKS[suite].items()
    }


def our_cells(row: MethodResults, suite: str, footnotes: Footnotes) -> dict[str, TableCell]:
    """All cells that any of the tables shows for one of our rows."""
    tasks = catalog.tasks(suite)
    by_group, by_task = list(catalog.group_weights(suite)), list(catalog.task_weights(suite))
    cells = {"method": TableCell(row.label), "source": TableCell("ours"), "provenance_key": TableCell(footnotes.keys(row))}
    for task in tasks:
        if task in row.tasks:
            cells[task] = estimate_cell(row.tasks[task].estimate, test_error=row.tasks[task].test_error)
    cells["params_m"] = TableCell(value=row.params_m, digits=4 if suite == "mini" else 2)
    cells |= {group: estimate_cell(mean) for group, mean in group_means(row, suite).items()}
    flat = aggregate.mean_over(row, tasks, by_task)
    cells["group_avg"] = estimate_cell(aggregate.mean_over(row, tasks, by_group))
    cells["task_avg"] = estimate_cell(flat)
    cells["peak_avg"] = estimate_cell(aggregate.peak_over(row, tasks, by_group))
    gap = aggregate.peeking_gap(row, tasks)
    if gap is not None:
        some = f"{gap[1]} of {len(tasks)} tasks" if gap[1] < len(tasks) else ""
        cells["peeking_gap"] = replace(estimate_cell(gap[0], 2), text=some)
    if flat is not None:
        cells["ppt"] = TableCell(value=compare.ppt(flat.value, 1e6 * row.params_m), digits=3)
    return cells


def paper_cells(name: str, printed: Mapping[Any, Any], wrong: list[paper.Misprint]) -> dict[str, TableCell]:
    """The cells of a printed row, a misprint with the value its own cells give."""
    cells = {"method": TableCell(name), "source": TableCell("paper")}
    for column, value in printed.items():
        if not pd.isna(value):
            cells[column] = TableCell(value=value, digits=2 if column == "params_m" else 1)
    for misprint in wrong:
        if misprint.method == name:
            cells[misprint.column] = replace(cells[misprint.column], recomputed=misprint.recomputed)
    if "cifar100" in cells:
        for group, members in catalog.TASKS["vtab"].items():
            cells[group] = TableCell(value=sum(printed[task] for task in members) / len(members))
    if "task_avg" in cells and "params_m" in cells:
        cells["ppt"] = TableCell(value=compare.ppt(printed["task_avg"], 1e6 * printed["params_m"]), digits=3)
    return cells


def side_by_side(
    spec: TableSpec,
    suite: str,
    ours: Mapping[str, list[MethodResults]],
    frame: pd.DataFrame | None,
    wrong: Sequence[paper.Misprint],
) -> Table:
    """Paper row, our row, paper row, ...; then our further methods, and further settings that cover every task.

    frame is None where the paper has no such table (the mini suite): then only our rows stand there.
    """
    footnotes, lines = Footnotes(), []
    mine = [misprint for misprint in wrong if misprint.table == spec.name and frame is not None]
    rows = {method: settings[0] for method, settings in ours.items()}
    for name in spec.names:
        method = catalog.PAPER_METHODS[name][0]
        if frame is not None:
            lines.append(TableRow("paper", paper_cells(name, frame.to_dict(orient="index")[name], mine)))
        empty = {"method": TableCell(method), "source": TableCell("ours")}
        lines.append(TableRow("ours", our_cells(rows[method], suite, footnotes) if method in rows else empty))
    shown = list(dict.fromkeys(catalog.PAPER_METHODS[name][0] for name in spec.names))
    extra, left = further_rows(shown, ours, len(catalog.tasks(suite)), spec.further)
    lines += [TableRow("ours", our_cells(row, suite, footnotes)) for row in extra]
    notes = [OURS_NOTE, MINI_NOTE if frame is None else PAPER_NOTE, AVERAGE_NOTE, PEAK_NOTE]
    notes += [*map(misprint_note, mine), *footnotes.notes()]
    kinds = sorted({row.tuned for row in (*extra, *(rows[method] for method in shown if method in rows))})
    if len(kinds) > 1:
        notes.append(f"Rows of tuned={', tuned='.join(kinds)} stand here together: compare within one kind only.")
    if left:
        notes.append(
            f"{left} runs of further settings are not in this table: they lack tasks, or belong to the ablation."
        )
    return Table(spec.name, spec.title, spec.columns, with_ranks(spec.columns, lines), notes)


def further_rows(
    shown: Sequence[str], ours: Mapping[str, list[MethodResults]], tasks: int, further: bool
) -> tuple[list[MethodResults], int]:
    """Rows beyond the paper's: other methods, other settings with every task; and the number of runs left out."""
    rows, left = [], 0
    for method, settings in ours.items():
        if method not in shown and not further:
            continue
        candidates = settings[1:] if method in shown else settings
        for row in candidates:
            if row is settings[0] or (len(row.tasks) == tasks and not figure_data.only_axes_differ(settings[0], row)):
                rows.append(row)
            else:
                left += len(row.runs)
    return rows, left


def misprint_note(item: paper.Misprint) -> str:
    """One line per misprint."""
    return (
        f"[!] {item.method}: the paper prints {item.printed:.1f}, its own cells give {item.recomputed:.2f}; "
        "ranked by the recomputed value."
    )
