"""The numbers of the figures: few-shot curves, the sweep over kernels, the N x m x r grid, costs against accuracy."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from karst_bench.report.experiment import Facts
from karst_bench.report.footnotes import Footnotes
from karst_bench.report.statistics import aggregate, compare
from karst_bench.report.statistics.aggregate import MethodResults, ResultsByMethod
from karst_bench.report.statistics.intervals import Estimate
from karst_bench.report.suite import FEW_SHOT, KERNELS, Suite, SuiteTask, planned_rows
from karst_bench.report.table_model import Column, Table, TableCell, TableRow, estimate_cell

AXES = ("N", "m", "r")


@dataclass(frozen=True)
class FewShotCurves:
    """Figure 2: panel title -> method -> shots -> accuracy. The last panel is the average over the sets.

    results: the one setting of each method that is drawn, by its label. left_out: labels of the methods' other settings.
    """

    panels: dict[str, dict[str, dict[int, Estimate]]]
    results: dict[str, MethodResults]
    left_out: list[str]
    shots: tuple[int, ...]
    tasks: dict[str, tuple[str, ...]]  # panel title -> the sets in it

    def run_ids(self, panel: str, method: str, shots: int) -> tuple[str, ...]:
        """Ids of the runs behind one point."""
        return self.results[method].run_ids(f"{task}@{shots}" for task in self.tasks[panel])

    @property
    def methods(self) -> list[str]:
        """Methods with at least one point, in the order of the legend."""
        return list(dict.fromkeys(method for panel in self.panels.values() for method in panel))


def few_shot_curves(ours: ResultsByMethod, suite: Suite) -> FewShotCurves:
    """Accuracy over shots per set of the suite and on average."""
    planned = [row.method for row in planned_rows(suite.sweeps[FEW_SHOT])]
    order = [method for method in dict.fromkeys([*planned, *ours]) if method in ours]
    return curves_of({method: ours[method] for method in order}, suite.few_shot_sets, suite.shots)


def group_curves(ours: ResultsByMethod, columns: Sequence[SuiteTask]) -> FewShotCurves:
    """The same of a group whose columns are sets at numbers of shots, `fewshot/pets@4`."""
    cells = [(column, *column.task.rpartition("@")[::2]) for column in columns]
    sets = {name: SuiteTask(column.option, name, column.group, column.title.rpartition(",")[0]) for column, name, _ in cells}
    return curves_of(ours, [*sets.values()], tuple(sorted({int(shots) for _, _, shots in cells})))


def curves_of(ours: ResultsByMethod, sets: Sequence[SuiteTask], shots: tuple[int, ...]) -> FewShotCurves:
    """Curves of each method's first setting; the average only where every set has runs at those shots."""
    average = f"Average of {len(sets)}"
    titles = [*(s.title for s in sets), *([average] if len(sets) > 1 else [])]
    panels: dict[str, dict[str, dict[int, Estimate]]] = {title: {} for title in titles}
    order = list(ours)
    for method in order:
        results = ours[method][0]
        for dataset in sets:
            cells = {n: results.tasks.get(f"{dataset.task}@{n}") for n in shots}
            points = {n: cell.estimate for n, cell in cells.items() if cell is not None}
            if points:
                panels[dataset.title][results.label] = points
        means = {
            n: aggregate.mean_over(results, [f"{s.task}@{n}" for s in sets], [1 / len(sets)] * len(sets))
            for n in shots
        }
        if len(sets) > 1 and (points := {n: mean for n, mean in means.items() if mean is not None}):
            panels[average][results.label] = points
    drawn = {ours[method][0].label: ours[method][0] for method in order}
    left_out = [results.label for method in order for results in ours[method][1:]]
    tasks = {dataset.title: (dataset.task,) for dataset in sets} | {average: tuple(dataset.task for dataset in sets)}
    return FewShotCurves(panels, drawn, left_out, shots, tasks)


def few_shot_table(curves: FewShotCurves, title: str, name: str = FEW_SHOT) -> Table:
    """The numbers of Figure 2, one row per set and method."""
    columns = [Column("set", "Set"), Column("method", "Method")]
    columns += [Column(f"shots_{shots}", f"{shots}-shot") for shots in curves.shots]
    columns += [Column("provenance_key", "Key")]
    footnotes, rows = Footnotes(), []
    for panel, methods in curves.panels.items():
        for method, points in methods.items():
            key = TableCell(footnotes.keys(curves.results[method]))
            cells = {"set": TableCell(panel), "method": TableCell(method), "provenance_key": key}
            cells |= {
                f"shots_{n}": estimate_cell(point, runs=curves.run_ids(panel, method, n)) for n, point in points.items()
            }
            rows.append(TableRow("ours", cells))
    notes = [
        "Test top-1 in %, mean over split seeds ± half of the 95 % interval (n). The paper prints no numbers here."
    ]
    if curves.left_out:
        notes.append(f"Runs of further settings are not in this figure: {', '.join(curves.left_out)}.")
    return Table(name, title, columns, rows, [*notes, *footnotes.notes()])


@dataclass(frozen=True)
class GridPoint:
    """One setting of KARST in the N x m x r grid: parameters in millions and accuracy over the common tasks."""

    axes: tuple[tuple[str, object], ...]
    params_m: float
    accuracy: Estimate
    runs: tuple[str, ...] = ()

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


def _families(settings: Sequence[MethodResults]) -> dict[str, dict[Facts, list[MethodResults]]]:
    """{how it was tuned: {all but N, m and r: settings}}."""
    found: dict[str, dict[Facts, list[MethodResults]]] = {}
    for results in settings:
        if results.tasks and all(axis in results.runs[0].hyper for axis in AXES):
            rest = tuple(item for item in results.setting if item[0] not in {f"method.{axis}" for axis in AXES})
            found.setdefault(results.tuned, {}).setdefault(rest, []).append(results)
    return found


def ablation_grid(ours: ResultsByMethod, suite: Suite, method: str) -> AblationGrid:
    """All N, m, r of a method that agree in everything else, over the tasks that give most points x tasks; tuned as
    Figure 3's sweep plans, else not tuned."""
    found = _families(ours.get(method, []))
    families = found.get(suite.planned_tuning(KERNELS)) or found.get("none", {})
    if not families:
        return AblationGrid([], "", [])
    _, members = max(
        families.items(), key=lambda item: (len(item[1]), sum(len(results.runs) for results in item[1]), item[0])
    )
    tasks = common_tasks(members, suite.task_names)
    points, left_out = [], []
    for results in members:
        axes = tuple((axis, axis_value(results.runs[0].hyper[axis])) for axis in AXES)
        accuracy = aggregate.mean_over(results, tasks, average_weights(suite, tasks)) if tasks else None
        if accuracy is None:
            left_out.append(" ".join(f"{key}={value}" for key, value in axes))
        else:
            points.append(GridPoint(axes, results.params_m, accuracy, results.run_ids(tasks)))
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


def own_tasks(results: MethodResults, order: Sequence[str]) -> tuple[str, ...]:
    """The tasks that a method has, in table order."""
    return tuple(task for task in order if task in results.tasks)


def common_tasks(settings: Sequence[MethodResults], order: Sequence[str]) -> list[str]:
    """The tasks T that maximise (settings that have all of T) x |T|, so that one stray run does not empty the figure."""
    candidates = sorted({own_tasks(results, order) for results in settings})

    def worth(tasks: Iterable[str]) -> tuple[int, int, tuple[str, ...]]:
        wanted = tuple(tasks)
        covered = sum(set(wanted) <= set(results.tasks) for results in settings)
        return covered * len(wanted), len(wanted), wanted

    return list(max(candidates, key=worth))


def average_weights(suite: Suite, tasks: Sequence[str]) -> list[float]:
    """Group weights on all tasks of a suite, else equal weights."""
    if list(tasks) == list(suite.task_names) and suite.sweeps:
        return suite.group_weights
    return [1 / len(tasks)] * len(tasks)


def average_name(suite: Suite, tasks: Sequence[str]) -> str:
    """What an accuracy over these tasks is called on an axis."""
    if list(tasks) == list(suite.task_names) and suite.sweeps:
        return "Avg. (mean of group means)"
    names = ", ".join(suite.title(task) for task in tasks)
    return f"mean of {len(tasks)} tasks" if len(tasks) > 2 else names


def kernel_sweep(whole: AblationGrid, suite: Suite) -> AblationGrid:
    """Figure 3: the points of the grid with m and r as its file holds them, by N; all of them where there is no such file."""
    axes = suite.sweeps[KERNELS].axes if KERNELS in suite.sweeps else {}
    held = {axis: axes[f"method.{axis}"] for axis in AXES if axis != "N" and f"method.{axis}" in axes}
    points = [p for p in whole.points if all(str(dict(p.axes)[axis]) in values for axis, values in held.items())]
    return AblationGrid(sorted(points, key=lambda point: point.kernels), whole.average, [])


def grid_table(name: str, title: str, found: AblationGrid) -> Table:
    """The numbers of Figure 3 or of the ablation page: one row per setting, the front and its knee marked."""
    costs = [(point.params_m, point.accuracy.value) for point in found.points]
    front = compare.pareto_front(costs)
    bend = compare.knee(costs, front)
    columns = [*(Column(axis, axis) for axis in AXES), Column("params_m", "Params (M)")]
    columns += [Column("accuracy", f"Top-1 (%), {found.average}" if found.average else "Top-1 (%)", ranked=True)]
    columns += [Column("front", "Pareto front")]
    rows = []
    for index, point in enumerate(found.points):
        place = "knee" if index == bend else "front" if index in front else "-"
        cells = {key: TableCell(str(value)) for key, value in point.axes}
        cells |= {"params_m": TableCell(value=point.params_m, digits=4)}
        cells["accuracy"] = estimate_cell(point.accuracy, 2, runs=point.runs)
        rows.append(TableRow("ours", cells | {"front": TableCell(place)}))
    notes = ["Mean over seeds ± half of the 95 % interval (n). Front: no setting is both smaller and more accurate."]
    notes.append("Knee: the front point farthest above the chord of the front (parameters on a log scale).")
    if found.left_out:
        notes.append("Without runs on all of these tasks, hence left out: " + "; ".join(found.left_out) + ".")
    if not found.points:
        notes.append("No runs yet.")
    return Table(name, title, columns, rows, notes)


@dataclass(frozen=True)
class MethodCost:
    """One row in the Pareto plot. source is "ours" or "paper"; cost in the unit of the panel; kind: of tuning."""

    label: str
    source: str
    cost: float
    accuracy: Estimate
    kind: str = ""
    runs: tuple[str, ...] = ()


PARAMETERS, STEP, MEMORY = "Trainable parameters (M)", "Median step (ms)", "Peak memory (GiB)"


def method_costs(
    ours: ResultsByMethod, suite: Suite, tasks: Sequence[str], printed: Mapping[str, tuple[float, float]]
) -> dict[str, list[MethodCost]]:
    """Panel title -> points: parameters (with the paper's, method -> (params_m, group average)), step time, memory, over the
    tasks; panels without a point are absent.

    Times and memory are compared on the machine that most rows ran on; rows from elsewhere are not drawn there.
    """
    complete = aggregate.complete_results(ours, tasks) if tasks else []
    weights = average_weights(suite, tasks) if tasks else []
    rows = [(results, aggregate.mean_over(results, tasks, weights)) for results in complete]
    machines = Counter(
        results.runs[0].machine for results, _ in rows if len({run.machine for run in results.runs}) == 1
    )
    where = max(machines, key=lambda name: (machines[name], name)) if machines else ""
    panels: dict[str, list[MethodCost]] = {PARAMETERS: [], STEP: [], MEMORY: []}
    for results, accuracy in rows:
        if accuracy is None:
            continue
        costs = {PARAMETERS: results.params_m}
        if {run.machine for run in results.runs} == {where}:
            measured = {STEP: results.mean_of("step_ms"), MEMORY: results.mean_of("peak_bytes")}
            units = {STEP: 1.0, MEMORY: 2.0**30}
            costs |= {panel: value / units[panel] for panel, value in measured.items() if value is not None}
        for panel, cost in costs.items():
            panels[panel].append(MethodCost(results.label, "ours", cost, accuracy, results.tuned, results.run_ids(tasks)))
    panels[PARAMETERS] += [MethodCost(name, "paper", size, Estimate(value, 1)) for name, (size, value) in printed.items()]
    return {panel: points for panel, points in panels.items() if points}


def cost_front(points: Sequence[MethodCost]) -> list[int]:
    """The Pareto front of our rows of the kind of tuning that most have, of the paper's numbers where nothing ran: like alone."""
    kinds = Counter(point.kind for point in points if point.source == "ours")
    kind = max(kinds, key=lambda name: (kinds[name], name)) if kinds else ""
    ours = [index for index, point in enumerate(points) if point.kind == kind and (point.source == "ours" or not kinds)]
    found = compare.pareto_front([(points[index].cost, points[index].accuracy.value) for index in ours])
    return [ours[index] for index in found]
