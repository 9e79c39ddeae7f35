"""From runs to rows: which runs are seeds of one cell, which cells make a row, and what a row averages to."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np

from karst_bench.report.experiment import Facts
from karst_bench.report.load import Run
from karst_bench.report.statistics import intervals
from karst_bench.report.statistics.cells import Conflict, case_marks, cases_of, one_run_per_seed, runs_by_cell
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
    setting: Facts
    tasks: dict[str, TaskResults]
    layer: int = 0  # 0: the case that most seeds of each task have; further ones: other data, values, libraries
    conflicts: tuple[Conflict, ...] = ()

    @property
    def deviations(self) -> tuple[str, ...]:
        """What the setting has otherwise than the default configuration."""
        return next(iter(self.tasks.values())).runs[0].deviations

    @property
    def runs(self) -> list[Run]:
        """All runs printed in this row."""
        return [run for cell in self.tasks.values() for run in cell.runs]

    def run_ids(self, tasks: Iterable[str]) -> tuple[str, ...]:
        """Ids of the runs behind the cells of these tasks, those that it has."""
        return tuple(run.id for task in tasks if task in self.tasks for run in self.tasks[task].runs)

    @property
    def params_m(self) -> float:
        """Trainable parameters without head, in millions; the mean over tasks where a tuned size differs by task."""
        return float(np.mean([np.mean([run.params for run in cell.runs]) for cell in self.tasks.values()])) / 1e6

    def mean_of(self, field: str) -> float | None:
        """Mean over tasks of the median of a measured field of the runs; None unless every run has it."""
        columns = [[getattr(run, field) for run in cell.runs] for cell in self.tasks.values()]
        if not columns or any(value is None for column in columns for value in column):
            return None
        return float(np.mean([np.median(column) for column in columns]))


WIDEST = 60  # characters of the deviations in a row's name
ResultsByMethod = Mapping[str, list[MethodResults]]  # a method's rows, the default configuration first


def method_results(runs: Iterable[Run], *, full_names: bool = False, planned: str = "none") -> ResultsByMethod:
    """Method -> its results, one entry for each setting and case (see `row_order`), with the cells of `runs_by_cell`.

    planned: how the values of the rows that come first were tuned.
    """
    by_setting: dict[tuple[str, str, Facts], list[Run]] = {}
    for (method, tuned), members in _grouped(runs).items():
        for run, setting in _joined(members):
            by_setting.setdefault((method, tuned, setting), []).append(run)
    found: dict[str, list[MethodResults]] = {}
    for (method, tuned, setting), members in by_setting.items():
        found.setdefault(method, []).extend(_layers(method, tuned, setting, runs_by_cell(members, full_names)))
    order = partial(row_order, planned=planned)
    return {method: labelled(sorted(found[method], key=order)) for method in sorted(found) if found[method]}


def _grouped(runs: Iterable[Run]) -> dict[tuple[str, str], list[Run]]:
    found: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        found.setdefault((run.method, run.tuned), []).append(run)
    return found


def _joined(members: Sequence[Run]) -> Iterable[tuple[Run, Facts]]:
    """Each run with the setting of its row. A tuned table that lists nothing for a dataset leaves the method's defaults there:
    such a run stands with those whose values were tuned, if it deviates in nothing."""
    keys: dict[Facts, set[str]] = {}
    for run in members:
        if run.listed and run.tuned != "none":
            keys.setdefault(run.setting, set()).update(key for key, _ in run.case)
    for run in members:
        setting = run.setting
        if not run.listed and not run.deviations:
            reduced = ((tuple(item for item in setting if item[0] not in tuned), other) for other, tuned in sorted(keys.items()))
            setting = next((other for less, other in reduced if less == other), setting)
        yield run, setting


def _layers(method: str, tuned: str, setting: Facts, cells: Mapping[str, list[Run]]) -> list[MethodResults]:
    """A row from each task's most frequent case, another from the second ones, ...: no cell holds two cases."""
    layers: list[dict[str, tuple[Facts, list[Run]]]] = []
    for name, runs in sorted(cells.items()):
        ordered = sorted(cases_of(runs).items(), key=lambda item: (-len({(run.split_seed, run.seed) for run in item[1]}), item[0]))
        for index, case in enumerate(ordered):
            layers += [{}] if index == len(layers) else []
            layers[index][name] = case
    found = []
    for index, layer in enumerate(layers):
        chosen = {name: one_run_per_seed(name, members) for name, (_, members) in layer.items()}
        tasks = {name: TaskResults(runs) for name, (runs, _) in chosen.items() if runs}
        conflicts = tuple(conflict for _, found_here in chosen.values() for conflict in found_here)
        facts = [({name: case for name, (case, _) in layer.items()}) for layer in (layers[0], layer)]
        marks = case_marks(*facts) if index else ()
        if tasks or conflicts:
            found.append(MethodResults(method, method, tuned, setting + marks, tasks, index, conflicts))
    return found


def row_order(results: MethodResults, planned: str = "none") -> tuple[bool, bool, bool, int, int, int, Facts]:
    """Sort key of the rows of one method: those tuned as planned first, then untuned ones, others after them; of each kind the
    default configuration before those that deviate; among equals the most frequent case, most tasks and most runs first."""
    deviating = bool(results.tasks) and bool(results.deviations)
    tuned, size = (results.tuned != planned, results.tuned != "none"), (-len(results.tasks), -len(results.runs))
    return *tuned, deviating, results.layer, *size, results.setting


def labelled(rows: list[MethodResults]) -> list[MethodResults]:
    """Labels: the bare name is the default configuration; every deviation stands in brackets. What still reads the same as an
    earlier row says what it has otherwise than that one."""
    found: list[MethodResults] = []
    for results in rows:
        differing = [f"tuned={results.tuned}"] if results.tuned != "none" else []
        differing += results.deviations if results.tasks else []
        differing += [f"{key.removeprefix('case.')}={value[:12]}" for key, value in results.setting if key.startswith("case.")]
        same = next((row for row in found if row.label == _label(results.method, differing)), None)
        if same is not None:
            first = dict(same.setting)
            changed = [(key, value) for key, value in results.setting if first.get(key) != value]
            gone = [key for key in first if key not in dict(results.setting)]
            said = [f"{key.removeprefix('method.')}={value[:12]}" for key, value in changed] or [f"no {key}" for key in gone]
            differing = [*said, *differing]  # first, so that no cut hides it
        text, alike = _label(results.method, differing), [row.label for row in found]
        number = next(n for n in range(1, len(found) + 2) if (text if n == 1 else f"{text} #{n}") not in alike)
        found.append(replace(results, label=text if number == 1 else f"{text} #{number}"))
    return found


def _label(method: str, differing: Sequence[str]) -> str:
    """The name and up to four deviations, as far as a line has room for them; the footnote has all."""
    kept = [item for index, item in enumerate(differing[:4]) if not index or len(", ".join(differing[: index + 1])) <= WIDEST]
    more = f", +{len(differing) - len(kept)}" if len(differing) > len(kept) else ""
    return method + (f" [{', '.join(kept)}{more}]" if differing else "")


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
    """Of every method and kind of tuning the first setting that has every task, for averages, ranks and tests; its label says
    which."""
    found: dict[tuple[str, str], MethodResults] = {}
    for results in (results for settings in ours.values() for results in settings):
        if set(tasks) <= set(results.tasks):
            found.setdefault((results.method, results.tuned), results)
    return list(found.values())


def by_kind(found: Iterable[MethodResults]) -> dict[str, list[MethodResults]]:
    """Kind of tuning -> its rows: like compares with like. The kind with most methods first, among equals that with most runs."""
    kinds: dict[str, list[MethodResults]] = {}
    for results in found:
        kinds.setdefault(results.tuned, []).append(results)
    size = {kind: (len(rows), sum(len(results.runs) for results in rows)) for kind, rows in kinds.items()}
    return {kind: kinds[kind] for kind in sorted(kinds, key=lambda kind: (-size[kind][0], -size[kind][1], kind))}


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
        seeds = {tuple(run.repeat for run in results.tasks[task].runs) for task in tasks}
        if len(seeds) == 1 and len(groups[0]) > 1:
            averages = np.asarray(by) @ np.array(groups)
            seen += float(np.var(averages, ddof=1)) / len(averages)
            expected += intervals.satterthwaite(groups, by)[1] ** 2
            used += 1
    return (seen / expected, used) if expected > 0 else None


def variance_ratio_range(
    found: Sequence[MethodResults], tasks: Sequence[str], by: Sequence[float], rng: np.random.Generator, draws: int = 2000
) -> tuple[float, float]:
    """5 and 95 % of `variance_ratio` if the seeds of every cell were independent and normal with the spread they have."""
    seen, expected = np.zeros(draws), np.zeros(draws)
    weight = np.asarray(by)
    for results in found:
        groups = [results.tasks[task].scores for task in tasks]
        seeds = {tuple(run.repeat for run in results.tasks[task].runs) for task in tasks}
        if len(seeds) == 1 and len(groups[0]) > 1:
            spread = np.std(np.array(groups), axis=1, ddof=1)
            drawn = rng.normal(size=(draws, len(groups[0]), len(tasks))) * spread
            seen += np.var(drawn @ weight, axis=1, ddof=1) / len(groups[0])
            expected += (weight**2 * np.var(drawn, axis=1, ddof=1)).sum(axis=1) / len(groups[0])
    low, high = np.quantile(seen / np.where(expected > 0, expected, 1), [0.05, 0.95])
    return float(low), float(high)


def missing_seeds(results: MethodResults | None, task: str, seeds: Sequence[int]) -> tuple[int, ...]:
    """Of the planned seeds those that no run of this cell has; a cell with as many other seeds lacks none."""
    return _missing({run.seed for run in _runs(results, task)}, seeds)


def missing_splits(results: MethodResults | None, task: str, splits: Sequence[int]) -> tuple[int, ...]:
    """The same of the split seeds of a few-shot cell."""
    return _missing({run.split_seed or 0 for run in _runs(results, task)}, splits)


def _runs(results: MethodResults | None, task: str) -> Sequence[Run]:
    return () if results is None or task not in results.tasks else results.tasks[task].runs


def _missing(have: set[int], planned: Sequence[int]) -> tuple[int, ...]:
    return () if len(have) >= len(planned) else tuple(seed for seed in planned if seed not in have)
