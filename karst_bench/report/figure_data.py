"""The numbers of the figures: few-shot curves, the sweep over kernels, the N x m x r grid, costs against accuracy."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from karst_bench.report import catalog
from karst_bench.report.footnotes import Footnotes
from karst_bench.report.statistics import aggregate, compare, intervals
from karst_bench.report.statistics.aggregate import MethodResults
from karst_bench.report.statistics.intervals import Estimate
from karst_bench.report.table_model import Column, Table, TableCell, TableRow, estimate_cell

AXES = ("N", "m", "r")


@dataclass(frozen=True)
class FewShotCurves:
    """Figure 2: panel title -> method -> shots -> accuracy. The last panel is the average over the sets.

    rows: the one row of each method that is drawn, by its label. left_out: labels of the methods' other settings.
    """

    panels: dict[str, dict[str, dict[int, Estimate]]]
    rows: dict[str, MethodResults]
    left_out: list[str]

    @property
    def methods(self) -> list[str]:
        """Methods with at least one point, in the order of the legend."""
        return list(dict.fromkeys(method for panel in self.panels.values() for method in panel))


def few_shot_curves(ours: Mapping[str, list[MethodResults]], suite: str) -> FewShotCurves:
    """Accuracy over shots per set and on average; the average only where every set has runs at those shots."""
    order = [*catalog.FIGURE2, *(method for method in ours if method not in catalog.FIGURE2)]
    tasks = [dataset.split("/")[1] for dataset in catalog.FEWSHOT[suite]]
    panels: dict[str, dict[str, dict[int, Estimate]]] = {catalog.title(task): {} for task in tasks}
    panels[f"Average of {len(tasks)}"] = {}
    for method in (method for method in order if method in ours):
        row = ours[method][0]
        for task in tasks:
            cells = {shots: row.tasks.get(f"{task}@{shots}") for shots in catalog.SHOTS}
            points = {shots: cell.estimate for shots, cell in cells.items() if cell is not None}
            if points:
                panels[catalog.title(task)][row.label] = points
        means = {
            shots: aggregate.mean_over(row, [f"{task}@{shots}" for task in tasks], [1 / len(tasks)] * len(tasks))
            for shots in catalog.SHOTS
        }
        if any(mean is not None for mean in means.values()):
            panels[f"Average of {len(tasks)}"][row.label] = {s: mean for s, mean in means.items() if mean is not None}
    rows = {ours[method][0].label: ours[method][0] for method in order if method in ours}
    return FewShotCurves(panels, rows, [row.label for method in order for row in ours.get(method, [])[1:]])


def few_shot_table(curves: FewShotCurves) -> Table:
    """The numbers of Figure 2, one line per set and method."""
    columns = [Column("set", "Set"), Column("method", "Method")]
    columns += [Column(f"shots_{shots}", f"{shots}-shot") for shots in catalog.SHOTS]
    columns += [Column("provenance_key", "Key")]
    footnotes = Footnotes()
    lines = [
        TableRow(
            "ours",
            {"set": TableCell(panel), "method": TableCell(method), "provenance_key": TableCell(footnotes.keys(curves.rows[method]))}
            | {f"shots_{shots}": estimate_cell(estimate) for shots, estimate in points.items()},
        )
        for panel, methods in curves.panels.items()
        for method, points in methods.items()
    ]
    notes = ["Test top-1 in %, mean over split seeds ± half of the 95 % interval (n). The paper prints no numbers here."]
    if curves.left_out:
        notes.append(f"Runs of further settings are not in this figure: {', '.join(curves.left_out)}.")
    return Table("figure2", "Figure 2: few-shot accuracy over shots", columns, lines, [*notes, *footnotes.notes()])


@dataclass(frozen=True)
class GridPoint:
    """One setting of KARST in the N x m x r grid: parameters in millions and accuracy over the common tasks."""

    axes: tuple[tuple[str, object], ...]
    params_m: float
    accuracy: Estimate

    @property
    def label(self) -> str:
        """N=2 m=8 r=8."""
        return " ".join(f"{key}={value}" for key, value in self.axes)

    @property
    def kernels(self) -> int:
        """N."""
        value = dict(self.axes)["N"]
        return value if isinstance(value, int) else -1


@dataclass(frozen=True)
class AblationGrid:
    """Points over the same tasks; `average` says what the accuracy is a mean of. left_out: settings short of a task."""

    points: list[GridPoint]
    average: str
    left_out: list[str]


def ablation_grid(ours: Mapping[str, list[MethodResults]], suite: str, method: str = "karst") -> AblationGrid:
    """All N, m, r of one method that agree in everything else, over the tasks that give most points x tasks."""
    families: dict[tuple[tuple[str, str], ...], list[MethodResults]] = {}
    for row in ours.get(method, []):
        if row.tuned == "none" and all(axis in row.runs[0].hyper for axis in AXES):
            rest = tuple(item for item in row.setting if item[0] not in {f"method.{axis}" for axis in AXES})
            families.setdefault(rest, []).append(row)
    if not families:
        return AblationGrid([], "", [])
    _, members = max(families.items(), key=lambda item: (len(item[1]), sum(len(row.runs) for row in item[1]), item[0]))
    tasks = common_tasks(members, catalog.tasks(suite))
    points, left_out = [], []
    for row in members:
        axes = tuple((axis, axis_value(row.runs[0].hyper[axis])) for axis in AXES)
        accuracy = aggregate.mean_over(row, tasks, average_weights(suite, tasks)) if tasks else None
        if accuracy is None:
            left_out.append(" ".join(f"{key}={value}" for key, value in axes))
        else:
            points.append(GridPoint(axes, row.params_m, accuracy))
    points.sort(key=lambda point: (point.params_m, str(point.axes)))
    return AblationGrid(points, average_name(suite, tasks), sorted(left_out))


def axis_value(value: object) -> object:
    """Integers as they are (they sort and plot), ranks per stage as 2/2/4/8, anything else as bounded text."""
    if isinstance(value, int):
        return value
    return "/".join(map(str, value))[:20] if isinstance(value, list) else str(value)[:20]


def only_axes_differ(first: MethodResults, other: MethodResults) -> bool:
    """Whether two settings of one method differ in N, m and r only: then the ablation page is their place."""
    differing = {key for key, _ in set(first.setting) ^ set(other.setting)}
    return differing <= {f"method.{axis}" for axis in AXES}


def own_tasks(row: MethodResults, order: Sequence[str]) -> tuple[str, ...]:
    """The tasks a row has, in table order."""
    return tuple(task for task in order if task in row.tasks)


def common_tasks(rows: Sequence[MethodResults], order: Sequence[str]) -> list[str]:
    """The tasks T that maximise (rows that have all of T) x |T|, so that one stray run does not empty the figure."""
    candidates = sorted({own_tasks(row, order) for row in rows})

    def worth(tasks: Iterable[str]) -> tuple[int, int, tuple[str, ...]]:
        wanted = tuple(tasks)
        covered = sum(set(wanted) <= set(row.tasks) for row in rows)
        return covered * len(wanted), len(wanted), wanted

    return list(max(candidates, key=worth))


def average_weights(suite: str, tasks: Sequence[str]) -> list[float]:
    """Group weights on the whole suite, else equal weights."""
    if list(tasks) == list(catalog.tasks(suite)):
        return [float(weight) for weight in catalog.group_weights(suite)]
    return [1 / len(tasks)] * len(tasks)


def average_name(suite: str, tasks: Sequence[str]) -> str:
    """What an accuracy over these tasks is called on an axis."""
    if list(tasks) == list(catalog.tasks(suite)):
        return "Avg. (mean of group means)"
    names = ", ".join(catalog.title(task) for task in tasks)
    return f"mean of {len(tasks)} tasks" if len(tasks) > 2 else names


def kernel_sweep(whole: AblationGrid) -> AblationGrid:
    """Figure 3: the points of the grid with m and r as in the paper, by N."""
    held = catalog.FIGURE3_HELD
    points = [p for p in whole.points if all(dict(p.axes)[key] == value for key, value in held.items())]
    return AblationGrid(sorted(points, key=lambda point: point.kernels), whole.average, [])


def grid_table(name: str, title: str, found: AblationGrid) -> Table:
    """The numbers of Figure 3 or of the ablation page: one line per setting, the front and its knee marked."""
    costs = [(point.params_m, point.accuracy.value) for point in found.points]
    front = compare.pareto_front(costs)
    bend = compare.knee(costs, front)
    columns = [*(Column(axis, axis) for axis in AXES), Column("params_m", "Params (M)")]
    columns += [Column("accuracy", f"Top-1 (%), {found.average}" if found.average else "Top-1 (%)", ranked=True)]
    columns += [Column("front", "Pareto front")]
    lines = []
    for index, point in enumerate(found.points):
        place = "knee" if index == bend else "front" if index in front else "-"
        cells = {key: TableCell(str(value)) for key, value in point.axes}
        cells |= {"params_m": TableCell(value=point.params_m, digits=4), "accuracy": estimate_cell(point.accuracy, 2)}
        lines.append(TableRow("ours", cells | {"front": TableCell(place)}))
    notes = ["Mean over seeds ± half of the 95 % interval (n). Front: no setting is both smaller and more accurate."]
    notes.append("Knee: the front point farthest above the chord of the front (parameters on a log scale).")
    if found.left_out:
        notes.append("Without runs on all of these tasks, hence left out: " + "; ".join(found.left_out) + ".")
    if not found.points:
        notes.append("No runs yet.")
    return Table(name, title, columns, lines, notes)


@dataclass(frozen=True)
class MethodCost:
    """One method in the Pareto plot. source is "ours" or "paper"; cost in the unit of the panel."""

    method: str
    source: str
    cost: float
    accuracy: Estimate


def method_costs(
    ours: Mapping[str, list[MethodResults]], suite: str, printed: Mapping[str, tuple[float, float]]
) -> dict[str, list[MethodCost]]:
    """Panel title -> points: parameters (with the paper's, name -> (params_m, group average)), step time, memory.

    Times and memory are compared on the machine that most rows ran on; rows from elsewhere are not drawn there.
    """
    tasks = catalog.tasks(suite)
    rows = [(row, aggregate.mean_over(row, tasks, list(catalog.group_weights(suite)))) for row in complete_rows(ours, tasks)]
    machines = Counter(row.runs[0].machine for row, _ in rows if len({run.machine for run in row.runs}) == 1)
    where = max(machines, key=lambda name: (machines[name], name)) if machines else ""
    panels: dict[str, list[MethodCost]] = {"Trainable parameters (M)": [], "Median step (ms)": [], "Peak memory (GiB)": []}
    parameters, times, memory = panels.values()
    for row, accuracy in rows:
        if accuracy is None:
            continue
        parameters.append(MethodCost(row.method, "ours", row.params_m, accuracy))
        if {run.machine for run in row.runs} == {where}:
            for panel, field, unit in ((times, "step_ms", 1.0), (memory, "peak_bytes", 2.0**30)):
                value = row.mean_of(field)
                if value is not None:
                    panel.append(MethodCost(row.method, "ours", value / unit, accuracy))
    parameters += [
        MethodCost(catalog.PAPER_METHODS[name][0], "paper", size, Estimate(value, 1))
        for name, (size, value) in printed.items()
    ]
    return panels


def cost_front(points: Sequence[MethodCost]) -> list[int]:
    """The Pareto front of our runs, of the paper's numbers where nothing ran; the two never mix (other protocols)."""
    ours = [index for index, point in enumerate(points) if point.source == "ours"] or list(range(len(points)))
    found = compare.pareto_front([(points[index].cost, points[index].accuracy.value) for index in ours])
    return [ours[index] for index in found]


def complete_rows(ours: Mapping[str, list[MethodResults]], tasks: Sequence[str]) -> list[MethodResults]:
    """Of every method the first setting that has every task, for averages, ranks and tests; its label says which."""
    whole = ([row for row in settings if all(task in row.tasks for task in tasks)] for settings in ours.values())
    return [rows[0] for rows in whole if rows]


def variance_ratio(rows: Sequence[MethodResults], tasks: Sequence[str], by: Sequence[float]) -> tuple[float, int] | None:
    """Variance of the per-seed averages over what independent seeds would give, pooled over rows; and the rows used.

    About 1 if the seeds of different tasks are independent, as the printed intervals assume; larger if a seed moves all
    tasks together. None without a row whose tasks share at least two seeds.
    """
    seen, expected, used = 0.0, 0.0, 0
    for row in rows:
        groups = [row.tasks[task].scores for task in tasks]
        seeds = {tuple(run.seed for run in row.tasks[task].runs) for task in tasks}
        if len(seeds) == 1 and len(groups[0]) > 1:
            averages = np.asarray(by) @ np.array(groups)
            seen += float(np.var(averages, ddof=1)) / len(averages)
            expected += intervals.satterthwaite(groups, by)[1] ** 2
            used += 1
    return (seen / expected, used) if expected > 0 else None
