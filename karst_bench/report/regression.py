"""Two sets of records side by side, paired by cell: did a change of the code move a method beyond its interval?"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from scipy import stats
from tabulate import tabulate

from karst_bench.errors import UserError
from karst_bench.report.experiment import LIBRARIES, Facts
from karst_bench.report.figure_data import common_tasks
from karst_bench.report.load import Run
from karst_bench.report.sources import ORIGINS, record_folders, stored_suite, suite_runs
from karst_bench.report.statistics import aggregate, cells, compare, intervals
from karst_bench.report.statistics.intervals import Estimate

CODE = {*LIBRARIES, "pixels", "threads"}  # what a comparison of code lets differ
BOTH = "reference,own"
SHARED = 5  # methods that an order takes at least
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
    order: str = ""  # where no cell is in both: what the order of methods on one side says about that on the other

    @property
    def text(self) -> str:
        """A table for the terminal with a line for what could not be paired."""
        lines = [[c.method, c.cells, f"{c.change.value:+.2f}", half(c.change), c.over, c.verdict] for c in self.changes]
        table = tabulate(lines, headers=["method", "cells", "B - A", "±", "over", ""], disable_numparse=True)
        said = [f"{self.alone[0]} cells are in A alone, {self.alone[1]} in B alone."]
        if not self.changes:
            said.append(f"No cell is in both. {self.order or 'Nothing was compared.'}")
        return "\n".join([table, "", *said, *(f"left out: {line}" for line in self.left_out)])


def half(change: Estimate) -> str:
    """Half of an interval, a dash where there is none."""
    return "—" if change.half is None else f"{change.half:.2f}"


def records_named(name: str, suite: str, results: Path) -> tuple[list[Run], list[str]]:
    """The runs of a folder (of records, or a results folder), of a commit or an origin (reference, own, imported) below `results`,
    or of a suite.

    Raises: UserError for a name that is none of these, or holds no valid record.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        stored = stored_suite(suite)
        places = {part: folder / part / stored for part in ("reference", "runs") if (folder / part / stored).is_dir()}
        _, runs, left_out = suite_runs(places or {"own": folder}, suite)
    elif name in ORIGINS:
        _, runs, left_out = suite_runs(record_folders(results, suite, name), suite)
    elif re.fullmatch(r"[0-9a-f]{7,40}", name):
        _, runs, left_out = suite_runs(record_folders(results, suite, BOTH), suite)
        runs = [run for run in runs if run.commit.startswith(name)]
    else:
        try:
            _, runs, left_out = suite_runs(record_folders(results, name, BOTH), name)
        except UserError:
            known = f"no suite and none of {', '.join(ORIGINS)}"
            raise UserError(f"{name} is no folder and no commit (7 to 40 hexadecimal digits), {known}") from None
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
        gaps = compare.paired_differences(y, x) or [fmean(y.values()) - fmean(x.values())]
        groups.setdefault((cell[0], cell[1], _of_method(cell)), []).append(gaps)
    changes = [_change(f"{method} on {backbone}", gaps) for (method, backbone, _), gaps in groups.items()]
    alone = (len(sides[0].keys() - sides[1].keys()), len(sides[1].keys() - sides[0].keys()))
    order = "" if changes else order_line(first[0], second[0])
    return Comparison(changes, alone, [*first[1], *second[1]], order)


def order_line(first: Sequence[Run], second: Sequence[Run]) -> str:
    """Spearman's rank correlation between the means of the methods that two suites share, in rows of the same name; "" where
    fewer than five do."""
    found = [_means(runs) for runs in (first, second)]
    shared = sorted(found[0][1].keys() & found[1][1].keys())
    if len(shared) < SHARED:
        return ""
    x, y = ([means[label] for label in shared] for _, means in found)
    value = float(stats.spearmanr(x, y).statistic) if len({*x}) > 1 and len({*y}) > 1 else float("nan")
    said = f"{value:.2f}" if value == value else "not defined, as one side has all alike"
    names = ", ".join(shared)
    return f"Order of {len(shared)} methods ({names}), A: {found[0][0]}, B: {found[1][0]}: Spearman {said}."


def _means(runs: Sequence[Run]) -> tuple[str, dict[str, float]]:
    """Of the backbone with most runs: where, and row -> its mean over the datasets that give most rows x datasets."""
    measured = [run for run in runs if run.last is not None and run.shots is None]
    if not measured:
        return "no run", {}
    backbone = Counter(sorted(run.backbone for run in measured)).most_common(1)[0][0]
    by_method = aggregate.method_results((run for run in measured if run.backbone == backbone), full_names=True)
    rows = [results for settings in by_method.values() for results in settings if results.tasks]
    names = common_tasks(rows, sorted({name for results in rows for name in results.tasks}))
    means = {results.label: aggregate.mean_over(results, names, [1 / len(names)] * len(names)) for results in rows}
    return f"{backbone}, {len(names)} datasets", {label: mean.value for label, mean in means.items() if mean is not None}


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
        change, over = intervals.mean_interval([fmean(values) for values in gaps]), "cells"
    every = [value for values in gaps for value in values]
    sure = change.high is not None and change.high < 0
    exact = change.high is None and len(every) > 1 and max(every) == min(every) < 0  # the same loss everywhere is no scatter
    return MethodChange(method, len(gaps), change, over if change.half is not None else "-", sure or exact)
