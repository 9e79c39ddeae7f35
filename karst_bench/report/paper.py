"""The paper's printed tables (results/paper/*.csv, wide, as they are) and the check of every printed mean."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from karst_bench.errors import UserError
from karst_bench.report import catalog

FILES = {"table1": "table1_vit_b16.csv", "table2": "table2_swin_b.csv", "table3": "table3_rescaling.csv"}
MISPRINT = 0.15


@dataclass(frozen=True)
class Misprint:
    """A printed mean that its own cells contradict: |printed - recomputed| > 0.15."""

    table: str
    method: str
    column: str
    printed: float
    recomputed: float


def printed_tables(folder: Path) -> dict[str, pd.DataFrame]:
    """Table name -> frame indexed by the printed method name. Raises: UserError naming the file that is missing."""
    tables = {}
    for table, file in FILES.items():
        path = folder / file
        try:
            tables[table] = pd.read_csv(path, index_col="method")
        except (OSError, ValueError) as error:
            raise UserError(
                f"cannot read the paper's numbers in {path} ({type(error).__name__}); "
                "run from the repository root or name the folder with paper=DIR"
            ) from error
    return tables


def recomputed_means(frame: pd.DataFrame) -> pd.DataFrame:
    """group_avg (mean of the group means) and task_avg (mean over tasks) from the cells; only what the cells allow."""
    columns = {}
    tasks = catalog.TASKS["vtab"]
    if set(catalog.tasks("vtab")) <= set(frame.columns):
        groups = [frame[list(members)].mean(axis=1, skipna=False) for members in tasks.values()]
        columns["task_avg"] = frame[list(catalog.tasks("vtab"))].mean(axis=1, skipna=False)
    else:
        groups = [frame[group] for group in catalog.GROUPS]
    columns["group_avg"] = pd.concat(groups, axis=1).mean(axis=1, skipna=False)
    return pd.DataFrame(columns, index=frame.index)


def misprints(tables: dict[str, pd.DataFrame]) -> list[Misprint]:
    """Every printed mean that is more than 0.15 from the mean of its cells; smaller differences are rounding."""
    found = []
    for table, frame in tables.items():
        again = recomputed_means(frame)
        for column in again.columns:
            for method in frame.index:
                printed, value = float(frame.loc[method, column]), float(again.loc[method, column])
                if abs(printed - value) > MISPRINT:
                    found.append(Misprint(table, str(method), str(column), printed, value))
    return found


def largest_rounding(tables: dict[str, pd.DataFrame]) -> float:
    """Largest |printed - recomputed| among the means that are not misprints."""
    gaps = [
        abs(float(frame.loc[method, column]) - float(recomputed_means(frame).loc[method, column]))
        for frame in tables.values() for column in recomputed_means(frame).columns for method in frame.index
    ]  # fmt: skip
    return max(gap for gap in gaps if gap <= MISPRINT)
