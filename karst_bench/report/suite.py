"""What a suite's tables and figures consist of, read from conf/: tasks and groups, rows, seeds, shots, the paper's files.

A new method, dataset or table is one YAML file; nothing in report/ names one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from karst_bench.config.datasets import dataset_config, dataset_members
from karst_bench.config.option_files import SweepRow, option_config, options, sweep_rows
from karst_bench.config.sweep_files import SUITES, SweepFile, read_sweep, sweep_names
from karst_bench.errors import UserError

MAIN, FEW_SHOT, KERNELS = "table1", "figure2", "figure3"  # the sweeps behind the statistics pages and the two figures


@dataclass(frozen=True)
class SuiteTask:
    """A dataset of a suite: its option (vtab/dtd), short name (dtd), group and column heading."""

    option: str
    task: str
    group: str
    title: str


@dataclass(frozen=True)
class PlannedRow:
    """A row that a sweep asks for: the label its runs carry, its row in the paper's table ("" for none), words to run it."""

    method: str
    printed: str
    words: str


@dataclass(frozen=True)
class Suite:
    """The tables of a suite. `tasks` are those of Table I in table order; averages are over exactly these."""

    name: str
    tasks: tuple[SuiteTask, ...]
    few_shot_sets: tuple[SuiteTask, ...]
    sweeps: Mapping[str, SweepFile]

    @property
    def task_names(self) -> tuple[str, ...]:
        """Short names in table order."""
        return tuple(task.task for task in self.tasks)

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """Group -> short names of its tasks, both in table order."""
        found: dict[str, tuple[str, ...]] = {}
        for task in self.tasks:
            found[task.group] = (*found.get(task.group, ()), task.task)
        return found

    @property
    def group_weights(self) -> list[float]:
        """Weights w_t of "Avg.", the mean of the group means: 1 / (groups * tasks in the group)."""
        groups = self.groups
        return [1 / (len(groups) * len(groups[task.group])) for task in self.tasks]

    @property
    def task_weights(self) -> list[float]:
        """Weights of "Set Avg.", the mean over tasks: 1 / tasks."""
        return [1 / len(self.tasks)] * len(self.tasks)

    def planned_tuning(self, sweep: str) -> str:
        """How that sweep plans its values: of the first rows of each method."""
        return self.sweeps[sweep].tuned if sweep in self.sweeps else "none"

    @property
    def tables(self) -> list[SweepFile]:
        """The sweeps that are printed as tables, by name; those of Table I's tasks first."""
        found = [sweep for _, sweep in sorted(self.sweeps.items()) if sweep.table is not None]
        return sorted(found, key=lambda sweep: self.of_table(sweep) != self)

    @property
    def shots(self) -> tuple[int, ...]:
        """Images per class of the few-shot figure."""
        return tuple(map(int, self.sweeps[FEW_SHOT].values("dataset.shots")))

    def of_table(self, sweep: SweepFile) -> "Suite":
        """The suite with the tasks of one table: its columns, and what its averages are over."""
        return replace(self, tasks=_datasets(sweep.values("dataset")))

    def title(self, task: str) -> str:
        """Column heading of a task. Raises: KeyError for a task of another suite."""
        return {known.task: known.title for known in self.tasks}[task]


@cache
def load_suite(name: str) -> Suite:
    """The suite as conf/ has it. Raises: UserError for an unknown suite, or a file that does not say what is needed."""
    if name not in SUITES:
        raise UserError(f"suite={name}: unknown; use one of {', '.join(SUITES)}")
    sweeps = {sweep: read_sweep(sweep, name) for sweep in sweep_names(name)}
    return Suite(name, _datasets(sweeps[MAIN].values("dataset")), _datasets(sweeps[FEW_SHOT].values("dataset")), sweeps)


@cache
def _datasets(named: tuple[str, ...]) -> tuple[SuiteTask, ...]:
    found = []
    for option in dict.fromkeys(option for name in named for option in dataset_members(name)):
        config = dataset_config(option)
        title = config.get("title") or str(config["task"]).replace("_", " ").capitalize()
        found.append(SuiteTask(option, config["task"], config["group"], title))
    return tuple(found)


def planned_rows(sweep: SweepFile) -> list[PlannedRow]:
    """The rows of a table or the curves of a figure, in the order of its file."""
    if "experiment" in sweep.axes:
        rows = {row.name: row for row in sweep_rows()}
        return [_experiment_row(rows[name]) for name in sweep.values("experiment")]
    return [PlannedRow(name, about(name).get("row") or "", f"method={name}") for name in sweep.values("method")]


def _experiment_row(row: SweepRow) -> PlannedRow:
    own = own_extra(row.method)
    words = f"method={row.method}" if row.extra == own else f"method={row.method} extra={row.extra}"
    return PlannedRow(run_label(row.method, row.extra, "none", own), row.printed, words)


def run_label(method: str, extra: str, also: str, own: str) -> str:
    """What a run is called in a table: method, +extra where it is not the method's own, and +also."""
    return method + (f"+{extra}" if extra != own else "") + (f"+{also}" if also != "none" else "")


@cache
def method_file(name: str) -> Mapping[str, Any]:
    """The method's node in conf/method/<name>.yaml; empty for a method that has no file here."""
    if name not in options("method"):
        return {}
    found = option_config("method", name)
    node: dict[str, Any] = found.get(
        "method", found
    )  # a file that sets its recipe too holds the method as one of its nodes
    return node


def about(name: str) -> Mapping[str, Any]:
    """What conf/method/<name>.yaml says under `about`; nothing for a method that has no file here."""
    return method_file(name).get("about") or {}


def own_extra(name: str) -> str:
    """The extra that a method brings by itself, which its label leaves out."""
    return about(name).get("extra") or "none"
