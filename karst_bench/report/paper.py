"""The paper's printed tables (results/paper/*.csv, wide, as they are) and the check of every printed mean."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from karst_bench.config.sweep_files import SweepFile
from karst_bench.errors import UserError
from karst_bench.files import packaged
from karst_bench.report.statistics.aggregate import ResultsByMethod
from karst_bench.report.suite import MAIN, Suite, planned_rows
from karst_bench.report.table_model import Column, Table, TableCell, TableRow, estimate_cell

MISPRINT = 0.15


@dataclass(frozen=True)
class PrintedMean:
    """A printed mean and the mean of its own cells; a misprint where they are more than 0.15 apart."""

    table: str
    method: str
    column: str
    printed: float
    recomputed: float

    @property
    def distance(self) -> float:
        """|printed - recomputed| in points."""
        return abs(self.printed - self.recomputed)


def printed_tables(suite: Suite, folder: Path | None = None) -> dict[str, pd.DataFrame]:
    """Table name -> frame indexed by the printed method name, for the tables of the suite that the paper has.

    Raises: UserError naming the file that cannot be read.
    """
    found = {}
    for sweep in suite.tables:
        if sweep.table is None or sweep.table.printed is None:
            continue
        path = (folder or packaged("results/paper")) / sweep.table.printed
        try:
            found[sweep.name] = pd.read_csv(path, index_col="method")
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read the paper's numbers in {path} ({type(error).__name__})") from error
    return found


def recomputed_means(frame: pd.DataFrame, suite: Suite) -> pd.DataFrame:
    """group_avg (mean of the group means) and task_avg (mean over tasks) from the cells; only what the cells allow."""
    columns = {}
    if set(suite.task_names) <= set(frame.columns):
        groups = [frame[list(members)].mean(axis=1, skipna=False) for members in suite.groups.values()]
        columns["task_avg"] = frame[list(suite.task_names)].mean(axis=1, skipna=False)
    else:
        groups = [frame[group] for group in suite.groups]
    columns["group_avg"] = pd.concat(groups, axis=1).mean(axis=1, skipna=False)
    return pd.DataFrame(columns, index=frame.index)


def printed_differences(tables: Mapping[str, pd.DataFrame], suite: Suite) -> list[PrintedMean]:
    """Every printed mean beside the mean of its own cells."""
    found = []
    for table, frame in tables.items():
        again = recomputed_means(frame, suite)
        for column in again.columns:
            for method in frame.index:
                printed, value = float(frame.loc[method, column]), float(again.loc[method, column])
                found.append(PrintedMean(table, str(method), str(column), printed, value))
    return found


def paper_differences(
    suite: Suite, ours: Mapping[str, ResultsByMethod], printed: Mapping[str, pd.DataFrame]
) -> Table:
    """Every cell of ours beside the printed one, for the first row of each planned method of each table."""
    columns = [Column(key, title) for key, title in (("table", "Table"), ("method", "Method"), ("cell", "Cell"))]
    columns += [Column("ours", "Ours"), Column("printed", "Printed"), Column("difference", "Ours - printed")]
    rows = []
    for name, frame in printed.items():
        for method, label in printed_names(suite.sweeps[name], frame).items():
            for results in ours.get(name, {}).get(method, [])[:1]:
                for task, cell in ((task, results.tasks[task]) for task in suite.task_names if task in results.tasks):
                    value: Any = frame.loc[label, task] if task in frame.columns else None
                    if not pd.isna(value):
                        shown = {"table": TableCell(name), "method": TableCell(results.label), "cell": TableCell(task)}
                        shown["ours"] = estimate_cell(cell.estimate, test_error=cell.test_error)
                        shown |= {"printed": TableCell(value=float(value))}
                        shown["difference"] = TableCell(value=cell.estimate.value - float(value))
                        rows.append(TableRow("ours", shown))
    notes = ["The paper prints one run, mostly at its best test epoch; ours is the last epoch: a difference is no test."]
    notes += [] if rows else ["No cell of ours has a printed one beside it yet."]
    return Table("paper_diff", f"Ours beside the paper ({suite.name})", columns, rows, notes)


def misprints(tables: Mapping[str, pd.DataFrame], suite: Suite) -> list[PrintedMean]:
    """The printed means that are more than 0.15 from the mean of their cells; smaller differences are rounding."""
    return [item for item in printed_differences(tables, suite) if item.distance > MISPRINT]


def largest_rounding(tables: Mapping[str, pd.DataFrame], suite: Suite) -> float:
    """Largest |printed - recomputed| in points among the means that are not misprints."""
    return max(item.distance for item in printed_differences(tables, suite) if item.distance <= MISPRINT)


def printed_names(sweep: SweepFile, frame: pd.DataFrame) -> dict[str, str]:
    """Planned method -> the printed row that is its own, by what the method's file says, else by the same name."""
    same = {str(name).lower().replace("-", "_"): str(name) for name in frame.index}
    found = {row.method: row.printed or same.get(row.method, "") for row in planned_rows(sweep)}
    return {method: name for method, name in found.items() if name in frame.index}


def printed_costs(suite: Suite, tables: Mapping[str, pd.DataFrame]) -> dict[str, tuple[float, float]]:
    """Method -> (parameters in millions, Avg. from the cells) where the paper's Table I prints a size; {} without it.

    A printed method that no sweep asks for keeps its printed name.
    """
    if MAIN not in tables:
        return {}
    frame = tables[MAIN]
    again = recomputed_means(frame, suite)["group_avg"].to_dict()
    ours = {printed: method for method, printed in printed_names(suite.sweeps[MAIN], frame).items()}
    sizes = frame["params_m"].dropna().to_dict()
    return {ours.get(str(name), str(name)): (float(size), float(again[name])) for name, size in sizes.items()}
