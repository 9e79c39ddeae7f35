"""Which table each run stands in: the paper's tables and its few-shot figure where they fit, else method x dataset for each
backbone, collection of datasets and footing. What stands in none has a reason of its own."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from karst_bench.config.datasets import dataset_config
from karst_bench.report import tables
from karst_bench.report.experiment import known_options
from karst_bench.report.load import Run
from karst_bench.report.statistics import aggregate, cells
from karst_bench.report.statistics.aggregate import MethodResults, ResultsByMethod
from karst_bench.report.suite import FEW_SHOT, MAIN, Suite, SuiteTask, load_suite, planned_rows

COLLECTIONS = {"vtab": "VTAB-1K tasks", "fgvc": "fine-grained sets", "fewshot": "few-shot sets", "mini": "the mini suite"}
OWN = "own"  # datasets that conf/ has no folder of
FOOTINGS = {"last": "", "best_val": ", epoch chosen on val", "val": ", accuracy on val"}
Place = tuple[str, str]  # origin and id of a run


@dataclass(frozen=True)
class RunGroup:
    """Runs of one backbone, one collection and one footing (last, best_val, val, a protocol of one's own); `view` has a task for
    each of their datasets, and no sweeps. whole: no table shows others of them."""

    name: str
    title: str
    footing: str
    view: Suite
    ours: ResultsByMethod
    whole: bool

    @property
    def rows(self) -> list[MethodResults]:
        """Its rows, method by method."""
        return [results for settings in self.ours.values() for results in settings]

    @property
    def few_shot(self) -> bool:
        """Whether its columns are shots of a set, over which no average is taken."""
        return any("@" in name for name in self.view.task_names)


@dataclass(frozen=True)
class PlacedRuns:
    """The results behind each table and the few-shot figure, the groups that neither has room for, and a line for every run that
    is in none of them."""

    tables: Mapping[str, ResultsByMethod]
    few_shot: ResultsByMethod
    groups: list[RunGroup]
    unplaced: list[str]
    where: Mapping[Place, tuple[str, ...]]  # the tables that a run stands in

    @property
    def run_ids(self) -> set[str]:
        """Ids of the runs that are in some table."""
        return {run_id for _, run_id in self.where}


def place_runs(runs: Iterable[Run], suite: Suite, named: Sequence[str] = ()) -> PlacedRuns:
    """The tables of a suite and the groups beside them; with `named` datasets, groups of exactly these alone."""
    every = list(runs)
    tested = [run for run in every if run.last is not None]
    on_val = [cells.on_val(run) for run in every if run.last is None]
    found: dict[str, ResultsByMethod] = {}
    shown: dict[str, list[MethodResults]] = {}
    for sweep in suite.tables if not named else []:
        seen, backbones = suite.of_table(sweep), sweep.values("backbone")
        options = {task.option for task in seen.tasks}
        fitting = [run for run in tested if run.dataset in options and run.backbone in backbones and run.shots is None]
        printed = [r for r in fitting if sweep.table and r.protocol in sweep.table.protocols]
        found[sweep.name] = aggregate.method_results(printed, planned=sweep.tuned)
        first, extra, _ = tables.table_rows(sweep, seen, found[sweep.name])
        shown[sweep.name] = [*first, *extra]
    in_few_shot = [run for run in tested if not named and in_figure(run, suite)]
    few = aggregate.method_results(in_few_shot, planned=suite.planned_tuning(FEW_SHOT))
    shown[FEW_SHOT] = [settings[0] for settings in few.values()]
    told = {place_of(run) for rows in shown.values() for results in rows for run in _told(results)}
    wanted = [run for run in (*tested, *(r for r in on_val if r.last is not None)) if not named or run.dataset in named]
    groups = _groups(wanted, suite, told, named)
    where: dict[Place, tuple[str, ...]] = {}
    for name, rows in (*shown.items(), *((group.name, group.rows) for group in groups)):
        for run in (run for results in rows for run in results.runs):
            where[place_of(run)] = (*where.get(place_of(run), ()), name)
    return PlacedRuns(found, few, groups, _unplaced(every, wanted, groups, [*shown.values()], where), where)


def place_of(run: Run) -> Place:
    """What tells a run from every other: two folders may hold records of one id."""
    return run.origin, run.id


def in_figure(run: Run, suite: Suite) -> bool:
    """Whether a run is one of the few-shot figure's."""
    if FEW_SHOT not in suite.sweeps:
        return False
    sets = {task.option for task in suite.few_shot_sets}
    return run.dataset in sets and run.shots in suite.shots and run.backbone in suite.sweeps[FEW_SHOT].values("backbone")


def _told(results: MethodResults) -> list[Run]:
    return [*results.runs, *(run for conflict in results.conflicts for run in conflict.runs)]


def collection(run: Run) -> str:
    """The folder of conf/dataset that a dataset is of, else `own`; few-shot runs apart."""
    folder = run.dataset.partition("/")[0]
    return (folder if folder in COLLECTIONS else OWN) + ("_shots" if run.shots is not None and folder != "fewshot" else "")


def footing(run: Run) -> str:
    """The protocol; peek10 trains and ends as last does."""
    return "last" if run.protocol == "peek10" else run.protocol


def _groups(runs: Sequence[Run], suite: Suite, told: set[Place], named: Sequence[str]) -> list[RunGroup]:
    keyed: dict[tuple[str, str, str], list[Run]] = {}
    for run in runs:
        own = "named" if named else "" if suite.sweeps else suite.name + ("_shots" if run.shots is not None else "")
        keyed.setdefault((run.backbone, own or collection(run), footing(run)), []).append(run)
    groups = []
    for (backbone, kind, foot), members in sorted(keyed.items()):
        every = aggregate.method_results(members, full_names=True)
        kept = {m: [row for row in rows if any(place_of(run) not in told for run in _told(row))] for m, rows in every.items()}
        ours = {method: kept[method] for method in in_table_order(kept) if kept[method]}
        if ours:
            words = [backbone, kind, *([foot] if foot != "last" else [])]
            name = "runs_" + re.sub(r"[^A-Za-z0-9.-]", "_", "_".join(words))
            tasks = _columns([row for rows in ours.values() for row in rows], named)
            whole = sum(map(len, ours.values())) == sum(map(len, every.values()))
            rest = "" if whole else ", further settings"
            title = f"{backbone}: {_title(kind, tasks)}{FOOTINGS.get(foot, f', protocol {foot}')}{rest}"
            groups.append(RunGroup(name, title, foot, Suite(suite.name, tasks, (), {}), ours, whole))
    return groups


def in_table_order(methods: Iterable[str]) -> list[str]:
    """The methods of Table I in its order, then the others by name."""
    planned = [row.method for row in planned_rows(load_suite("vtab").sweeps[MAIN])]
    return sorted(methods, key=lambda method: (planned.index(method) if method in planned else len(planned), method))


def _title(kind: str, tasks: Sequence[SuiteTask]) -> str:
    if kind == "named":
        return ", ".join(task.title for task in tasks[:4]) + (f" and {len(tasks) - 4} more" if len(tasks) > 4 else "")
    plain = kind.removesuffix("_shots")
    return COLLECTIONS.get(plain, "own datasets" if plain == OWN else plain) + (", few-shot" if plain != kind else "")


def _columns(rows: Sequence[MethodResults], named: Sequence[str]) -> tuple[SuiteTask, ...]:
    """A column for each dataset (and number of shots) of the rows: as they were named, else in the order of the suites' tables."""
    runs = {cell: members[0] for row in rows for cell, members in ((n, c.runs) for n, c in row.tasks.items())}
    runs |= {conflict.cell: conflict.runs[0] for row in rows for conflict in row.conflicts}
    known = {run.dataset: dataset_config(run.dataset) for run in runs.values() if run.dataset in known_options("dataset")}

    def order(cell: str) -> tuple[object, ...]:
        run = runs[cell]
        if named:
            return named.index(run.dataset), run.shots or 0
        config = known.get(run.dataset, {})
        rank = {"natural": 0, "specialized": 1, "structured": 2}.get(run.group, 3)
        return rank, config.get("order", 99), run.dataset, run.shots or 0

    made = []
    for cell in sorted(runs, key=order):
        run = runs[cell]
        title = known.get(run.dataset, {}).get("title") or run.dataset
        shots = "" if run.shots is None else f", {run.shots}-shot"
        made.append(SuiteTask(run.dataset, cell, run.group, f"{title}{shots}"))
    return tuple(made)


def _unplaced(
    every: Sequence[Run], wanted: Sequence[Run], groups: Sequence[RunGroup], shown: Sequence[Sequence[MethodResults]],
    where: Mapping[Place, tuple[str, ...]],
) -> list[str]:  # fmt: skip
    """A line with one reason for every run that is in no table."""
    rows = [results for found in (*shown, *(group.rows for group in groups)) for results in found]
    conflicts = {place_of(run): conflict for results in rows for conflict in results.conflicts for run in conflict.runs}
    names = {place_of(run) for run in wanted}
    lines = []
    for run in sorted(every, key=place_of):
        if place_of(run) in where:
            continue
        if place_of(run) in conflicts:
            others = [f"{other.origin}/{other.id}" for other in conflicts[place_of(run)].runs if place_of(other) != place_of(run)]
            said = "has the curves of" if conflicts[place_of(run)].copied else "says otherwise in"
            reason = f"seed {run.seed} of {run.method} on {run.dataset} {said} {', '.join(others)}; none of them counts"
        elif place_of(run) in names:
            reason = f"seed {run.seed} of {run.method} on {run.dataset} is counted once, by another file that says the same"
        else:
            silent = run.last is None and run.val is None
            reason = "measures neither the test nor the val split" if silent else f"of {run.dataset}, which was not named"
        lines.append(f"{run.origin}/{run.id}: {reason}")
    return lines
