"""From runs to rows: which runs are seeds of one cell, which cells make a row, and what a row averages to."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from karst_bench.report.load import Run
from karst_bench.report.statistics import intervals
from karst_bench.report.statistics.intervals import Estimate


@dataclass(frozen=True)
class TaskResults:
    """The runs of one method on one task, one per seed, all on the same version of the data."""

    runs: tuple[Run, ...]

    @cached_property
    def scores(self) -> list[float]:
        """Last-epoch test accuracies, in per cent, in the order of the seeds."""
        return [float(run.last) for run in self.runs if run.last is not None]

    @cached_property
    def estimate(self) -> Estimate:
        """Mean over the seeds with its t interval."""
        return intervals.mean_interval(self.scores)

    @cached_property
    def peaks(self) -> list[tuple[float, float]]:
        """(last, peak on test) of the runs that looked at the test set every tenth of the epochs."""
        return [(float(run.last), run.peak) for run in self.runs if run.last is not None and run.peak is not None]

    @property
    def test_error(self) -> float:
        """Standard error of the mean that the finite test set alone would cause, in points."""
        return intervals.test_set_error(self.estimate.value, self.runs[0].test_images)


@dataclass(frozen=True)
class MethodResults:
    """One method in one setting over tasks. `label` names the setting where it is not that of the method's file."""

    method: str
    label: str
    tuned: str
    setting: tuple[tuple[str, str], ...]
    tasks: dict[str, TaskResults]

    @property
    def runs(self) -> list[Run]:
        """All runs printed in this row."""
        return [run for cell in self.tasks.values() for run in cell.runs]

    @property
    def params_m(self) -> float:
        """Trainable parameters without head, in millions; the mean over tasks where a tuned size differs by task."""
        return float(np.mean([cell.runs[0].params for cell in self.tasks.values()])) / 1e6

    def mean_of(self, field: str) -> float | None:
        """Mean over tasks of the median of a measured field of the runs; None unless every run has it."""
        columns = [[getattr(run, field) for run in cell.runs] for cell in self.tasks.values()]
        if not columns or any(value is None for column in columns for value in column):
            return None
        return float(np.mean([np.median(column) for column in columns]))


ResultsByMethod = Mapping[str, list[MethodResults]]  # a method's settings, that of its file first


def method_results(runs: Iterable[Run], *, full_names: bool = False) -> ResultsByMethod:
    """Method -> its results, one entry for each setting (see `row_order`), with the cells of `runs_by_cell`."""
    by_setting: dict[tuple[str, str, tuple[tuple[str, str], ...]], list[Run]] = {}
    for run in runs:
        by_setting.setdefault((run.method, run.tuned, run.setting), []).append(run)
    found: dict[str, list[MethodResults]] = {}
    for (method, tuned, setting), members in by_setting.items():
        cells = {key: task_results(group) for key, group in sorted(runs_by_cell(members, full_names).items())}
        found.setdefault(method, []).append(MethodResults(method, method, tuned, setting, cells))
    return {method: labelled(sorted(found[method], key=row_order)) for method in sorted(found)}


def runs_by_cell(runs: Iterable[Run], full_names: bool = False) -> dict[str, list[Run]]:
    """Runs by what names a cell: the task (or the dataset), and the shots of a few-shot set (`pets@4`)."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        name = run.dataset if full_names else run.task
        found.setdefault(name if run.shots is None else f"{name}@{run.shots}", []).append(run)
    return found


def task_results(runs: Sequence[Run]) -> TaskResults:
    """One run per seed, on the version of the data (list hash, encoding) that most seeds used.

    A seed run twice (protocols last and peek10 train alike and print the same last epoch) counts once: the run that
    measured the peak, else the older one.
    """
    version, _ = max(Counter(run.data_version for run in runs).items(), key=lambda item: (item[1], item[0]))
    chosen: dict[tuple[int, int], Run] = {}
    for run in sorted(runs, key=lambda run: (run.peak is None, run.created, run.id)):
        if run.data_version == version:
            chosen.setdefault((run.split_seed or 0, run.seed), run)
    return TaskResults(tuple(chosen[key] for key in sorted(chosen)))


def row_order(results: MethodResults) -> tuple[bool, bool, bool, int, int, tuple[tuple[str, str], ...]]:
    """Sort key of the settings of one method: untuned, the values of its file, normalisation of the backbone, most tasks
    and most runs first."""
    foreign = ("normalization", "model") not in results.setting
    sizes = -len(results.tasks), -len(results.runs)
    return results.tuned != "none", bool(results.runs[0].deviations), foreign, *sizes, results.setting


def labelled(settings: list[MethodResults]) -> list[MethodResults]:
    """Labels: the first setting carries the bare name where it is that of the method's file, the others what differs."""
    first = dict(settings[0].setting)
    found = []
    for index, results in enumerate(settings):
        differing = list(results.runs[0].deviations)
        if index > 0:
            changed = [(key, value) for key, value in results.setting if first.get(key) != value]
            differing = [f"{key.removeprefix('method.')}={value}" for key, value in changed]
        if results.tuned != "none":
            differing = [f"tuned={results.tuned}", *(item for item in differing if "." not in item)]
        suffix = f" [{', '.join(differing[:4])}{', ...' if len(differing) > 4 else ''}]" if differing else ""
        found.append(replace(results, label=results.method + suffix))
    return found


def mean_over(results: MethodResults, tasks: Sequence[str], weights: Sequence[float]) -> Estimate | None:
    """Average of a method over the given tasks with its interval; None if one of them has no run."""
    if any(task not in results.tasks for task in tasks):
        return None
    return intervals.average_interval([results.tasks[task].scores for task in tasks], weights)


def peak_over(results: MethodResults, tasks: Sequence[str], weights: Sequence[float]) -> Estimate | None:
    """The same average of the peaks on the test set; None unless every task has a run that measured them."""
    if any(task not in results.tasks or not results.tasks[task].peaks for task in tasks):
        return None
    return intervals.average_interval([[peak for _, peak in results.tasks[task].peaks] for task in tasks], weights)


def peeking_gap(results: MethodResults, tasks: Sequence[str]) -> tuple[Estimate, int] | None:
    """What looking at the test set adds: mean over tasks of (peak - last) of the same runs, and the number of tasks.

    Only tasks with peek10 runs count, so the number says how much of the table was measured.
    """
    measured = [task for task in tasks if task in results.tasks and results.tasks[task].peaks]
    if not measured:
        return None
    gaps = [[peak - last for last, peak in results.tasks[task].peaks] for task in measured]
    return intervals.average_interval(gaps, [1 / len(gaps)] * len(gaps)), len(gaps)


def complete_results(ours: ResultsByMethod, tasks: Sequence[str]) -> list[MethodResults]:
    """Of every method the first setting that has every task, for averages, ranks and tests; its label says which."""
    whole = ([results for results in settings if set(tasks) <= set(results.tasks)] for settings in ours.values())
    return [settings[0] for settings in whole if settings]


def variance_ratio(
    found: Sequence[MethodResults], tasks: Sequence[str], by: Sequence[float]
) -> tuple[float, int] | None:
    """Variance of the per-seed averages over what independent seeds would give, pooled over methods; and their number.

    About 1 if the seeds of different tasks are independent, as the printed intervals assume; larger if a seed moves all
    tasks together. None without a method whose tasks share at least two seeds.
    """
    seen, expected, used = 0.0, 0.0, 0
    for results in found:
        groups = [results.tasks[task].scores for task in tasks]
        seeds = {tuple(run.seed for run in results.tasks[task].runs) for task in tasks}
        if len(seeds) == 1 and len(groups[0]) > 1:
            averages = np.asarray(by) @ np.array(groups)
            seen += float(np.var(averages, ddof=1)) / len(averages)
            expected += intervals.satterthwaite(groups, by)[1] ** 2
            used += 1
    return (seen / expected, used) if expected > 0 else None


def missing_seeds(results: MethodResults | None, task: str, seeds: Sequence[int]) -> tuple[int, ...]:
    """Of the planned seeds those that no run of this cell has; a cell with as many other seeds lacks none."""
    if results is None or task not in results.tasks:
        return tuple(seeds)
    have = {run.seed for run in results.tasks[task].runs}
    return () if len(have) >= len(seeds) else tuple(seed for seed in seeds if seed not in have)
