"""Two sets of records side by side, paired by cell: did a change of the code move a method beyond its interval?"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

from karst_bench.errors import UserError
from karst_bench.report.experiment import LIBRARIES, Facts
from karst_bench.report.load import Run, load_folders, load_runs
from karst_bench.report.statistics import cells, compare, intervals
from karst_bench.report.statistics.intervals import Estimate

CODE = {*LIBRARIES, "pixels"}  # what a comparison of code lets differ
Cell = tuple[str, str, str, int, Facts]  # method, backbone, dataset, shots, what was run


@dataclass(frozen=True)
class MethodChange:
    """Second minus first of one method in one setting, mean over its cells. over: what the interval ranges over."""

    method: str
    cells: int
    change: Estimate
    over: str
    fell: bool

    @property
    def verdict(self) -> str:
        """fell, rose, or within what other seeds would give."""
        if self.fell:
            return "FELL"
        return "rose" if self.change.low is not None and self.change.low > 0 else "within" if self.change.low is not None else "-"


@dataclass(frozen=True)
class Comparison:
    """What moved, the cells that only one side has, and the files left out."""

    changes: list[MethodChange]
    alone: tuple[int, int]
    left_out: list[str]

    @property
    def text(self) -> str:
        """A table for the terminal with a line for what could not be paired."""
        lines = [[c.method, c.cells, f"{c.change.value:+.2f}", half(c.change), c.over, c.verdict] for c in self.changes]
        table = tabulate(lines, headers=["method", "cells", "B - A", "±", "over", ""], disable_numparse=True)
        said = [f"{self.alone[0]} cells are in A alone, {self.alone[1]} in B alone."]
        if not self.changes:
            said.append("No cell is in both: nothing was compared.")
        return "\n".join([table, "", *said, *(f"left out: {line}" for line in self.left_out)])


def half(change: Estimate) -> str:
    """Half of an interval, a dash where there is none."""
    return "—" if change.half is None else f"{change.half:.2f}"


def records_named(name: str, suite: str, results: Path) -> tuple[list[Run], list[str]]:
    """The runs that a folder (of records, or a results folder) holds, or those of a commit below `results`.

    Raises: UserError for a name that is neither, or holds no valid record.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        places = {part: folder / part / suite for part in ("reference", "runs") if (folder / part / suite).is_dir()}
        runs, left_out = load_folders(places, suite) if places else load_runs(folder, suite)
    elif re.fullmatch(r"[0-9a-f]{7,40}", name):
        runs, left_out = load_folders({part: results / part / suite for part in ("reference", "runs")}, suite)
        runs = [run for run in runs if run.commit.startswith(name)]
    else:
        raise UserError(f"{name} is no folder and no commit (7 to 40 hexadecimal digits)")
    if not runs:
        raise UserError(f"{name}: no valid record of suite {suite}; {len(left_out)} files left out")
    return runs, left_out


def compared(first: tuple[list[Run], list[str]], second: tuple[list[Run], list[str]]) -> Comparison:
    """Both sides paired by cell and seed; where a cell shares no seed, its means."""
    sides = [_cells(runs) for runs, _ in (first, second)]
    shared = sorted(sides[0].keys() & sides[1].keys())
    groups: dict[tuple[str, str, Facts], list[list[float]]] = {}
    for cell in shared:
        x, y = ({run.repeat: float(run.last or 0.0) for run in side[cell]} for side in sides)
        gaps = compare.paired_differences(y, x) or [sum(y.values()) / len(y) - sum(x.values()) / len(x)]
        groups.setdefault((cell[0], cell[1], _of_method(cell)), []).append(gaps)
    changes = [_change(f"{method} on {backbone}", gaps) for (method, backbone, _), gaps in groups.items()]
    alone = (len(sides[0].keys() - sides[1].keys()), len(sides[1].keys() - sides[0].keys()))
    return Comparison(changes, alone, [*first[1], *second[1]])


def _of_method(cell: Cell) -> Facts:
    """What of a cell is the same over tasks."""
    return tuple(item for item in cell[4] if item[0].startswith(("method.", "recipe.", "protocol.", "extra.", "also.", "weights")))


def _cells(runs: Iterable[Run]) -> dict[Cell, tuple[Run, ...]]:
    found: dict[Cell, list[Run]] = {}
    for run in (run for run in runs if run.last is not None):
        what = tuple(item for item in (*run.setting, *run.case) if item[0] not in CODE)
        name = run.method if run.tuned == "none" else f"{run.method} [tuned={run.tuned}]"
        found.setdefault((name, run.backbone, run.dataset, run.shots or 0, what), []).append(run)
    kept = {cell: cells.one_run_per_seed(cell[2], members)[0] for cell, members in found.items()}
    return {cell: members for cell, members in kept.items() if members}


def _change(method: str, gaps: Sequence[Sequence[float]]) -> MethodChange:
    equal = [1 / len(gaps)] * len(gaps)
    change, over = intervals.average_interval(gaps, equal), "seeds"
    if change.n < 2 and len(gaps) > 1:  # one seed: the cells themselves say how far a change scatters
        change, over = intervals.mean_interval([sum(values) / len(values) for values in gaps]), "cells"
    every = [value for values in gaps for value in values]
    sure = change.high is not None and change.high < 0
    exact = change.high is None and len(every) > 1 and max(every) == min(every) < 0  # the same loss everywhere is no scatter
    return MethodChange(method, len(gaps), change, over if change.half is not None else "-", sure or exact)
