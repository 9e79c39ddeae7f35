"""What statistics and figures are made of: the suite's main table, and every group of runs that is whole in itself."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from karst_bench.report import figure_data, paper
from karst_bench.report.figure_data import AblationGrid, FewShotCurves, MethodCost
from karst_bench.report.placing import PlacedRuns
from karst_bench.report.statistics import aggregate, pages
from karst_bench.report.statistics.aggregate import ResultsByMethod
from karst_bench.report.statistics.compare import Ranks
from karst_bench.report.statistics.contrasts import Contrast, contrasts_table, declared_pairs
from karst_bench.report.suite import FEW_SHOT, KERNELS, MAIN, Suite
from karst_bench.report.table_model import Table

KERNEL_METHOD = "karst"  # of the ablation, where no file of a suite says another


@dataclass(frozen=True)
class Section:
    """suffix: of the names of its figures and pages; printed: the paper's method -> (parameters in millions, average)."""

    suffix: str
    title: str
    view: Suite
    ours: ResultsByMethod
    printed: Mapping[str, tuple[float, float]]

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that figures are over: all, where two rows have all of them, else those that give most rows x tasks."""
        if len(aggregate.complete_results(self.ours, self.view.task_names)) > 1:
            return self.view.task_names
        rows = [results for settings in self.ours.values() for results in settings if results.tasks]
        return tuple(figure_data.common_tasks(rows, self.view.task_names)) if rows else ()

    @property
    def average(self) -> str:
        """What the accuracy of its figures is a mean of."""
        return figure_data.average_name(self.view, self.tasks or self.view.task_names)

    @cached_property
    def ranks(self) -> tuple[str, Ranks] | None:
        """The kind of tuning with most methods, and their mean ranks."""
        return next(iter(pages.rank_methods(self.ours, self.tasks).items()), None)

    @cached_property
    def costs(self) -> dict[str, list[MethodCost]]:
        """Panels of the cost plot."""
        return figure_data.method_costs(self.ours, self.view, self.tasks, self.printed)

    @property
    def captions(self) -> dict[str, str]:
        """Name -> caption of the figures that have something to show: two points at least."""
        where, found = f": {self.title}" if self.suffix else "", {}
        if len({point.kernels for point in figure_data.kernel_sweep(self.grid, self.view).points}) > 1:
            said = "Accuracy and parameters over the kernels N" + where
            found[KERNELS] = said if self.suffix else f"Figure 3: {said}"
        if len(self.grid.points) > 1:
            found["ablation"] = f"Ablation: accuracy against parameters over N, m and r{where}"
        if len(self.costs.get(figure_data.PARAMETERS, ())) > 1:
            hollow = "; filled: our rows, hollow: the paper's numbers" if self.printed else ""
            line = "; the line: what no row of the most frequent kind of tuning beats in both"
            found["pareto"] = f"Accuracy ({self.average}) against cost{hollow}{line}{where}"
        if self.ranks is not None:
            over = f"Mean ranks over {len(self.tasks)} tasks with the critical difference"
            found["ranks"] = f"{over}, rows of tuned={self.ranks[0]}{where}"
        return {f"{name}{self.suffix}": caption for name, caption in found.items()}

    @cached_property
    def grid(self) -> AblationGrid:
        """The N x m x r grid."""
        method = self.view.sweeps[KERNELS].values("method")[0] if KERNELS in self.view.sweeps else KERNEL_METHOD
        return figure_data.ablation_grid(self.ours, self.view, method)


def sections_of(suite: Suite, placed: PlacedRuns, printed: Mapping[str, pd.DataFrame]) -> list[Section]:
    """The main table's section first, then the groups'."""
    found = []
    if MAIN in placed.tables:
        found.append(Section("", suite.sweeps[MAIN].title, suite, placed.tables[MAIN], paper.printed_costs(suite, printed)))
    groups = [group for group in placed.groups if group.whole and not group.few_shot and group.footing != "val"]
    return found + [Section(f"_{group.name}", group.title, group.view, group.ours, {}) for group in groups]


def few_shot_figures(suite: Suite, placed: PlacedRuns) -> Iterator[tuple[str, str, FewShotCurves]]:
    """Name, title and curves: the suite's own, then those of whole few-shot groups."""
    if FEW_SHOT in suite.sweeps and placed.tables:
        yield FEW_SHOT, suite.sweeps[FEW_SHOT].title, figure_data.few_shot_curves(placed.few_shot, suite)
    for group in placed.groups:
        if group.whole and group.few_shot and group.footing != "val":
            name = f"{FEW_SHOT}_{group.name}"
            yield name, f"Accuracy over shots: {group.title}", figure_data.group_curves(group.ours, group.view.tasks)


def statistics_tables(suite: Suite, sections: Sequence[Section], placed: PlacedRuns, declared: Sequence[Contrast]) -> list[Table]:
    """Of each section: intervals and ranks, contrasts, and what its ablation figures show; of each other table of the suite, the
    contrasts that its file declares."""
    made: list[Table] = []
    for section in sections:
        several = len(aggregate.complete_results(section.ours, section.view.task_names)) > 1
        if not section.suffix or (several and len(section.view.tasks) > 1):
            said = section.title.split(":")[0] + f" ({suite.name})" if not section.suffix else section.title
            made.append(pages.methods_table(section.ours, section.view, f"statistics{section.suffix}", f"Statistics of {said}"))
            title = f"Contrasts of methods: {said}"
            made.append(contrasts_table(section.ours, section.view, declared, f"pairs{section.suffix}", title))
    for sweep in suite.tables:
        if sweep.name != MAIN and sweep.contrasts and sweep.name in placed.tables:
            view, pairs = suite.of_table(sweep), declared_pairs("", suite, sweep.name)
            title = f"Contrasts of methods: {sweep.title}"
            made.append(contrasts_table(placed.tables[sweep.name], view, pairs, f"pairs_{sweep.name}", title))
    return made


def figure_captions(suite: Suite, placed: PlacedRuns, sections: Sequence[Section]) -> dict[str, str]:
    """Name -> caption of every figure that has something to show."""
    found = {name: title for name, title, curves in few_shot_figures(suite, placed) if curves.methods}
    return found | {name: caption for section in sections for name, caption in section.captions.items()}


def figure_tables(suite: Suite, sections: Sequence[Section], placed: PlacedRuns) -> list[Table]:
    """The numbers of the figures; of the suite's own also where nothing ran."""
    made = [
        figure_data.few_shot_table(curves, title, name)
        for name, title, curves in few_shot_figures(suite, placed)
        if name == FEW_SHOT or curves.methods
    ]
    for section in sections:
        swept = figure_data.kernel_sweep(section.grid, section.view)
        main = not section.suffix
        if main or len(section.grid.points) > 1:
            title = section.view.sweeps[KERNELS].title if main else f"Accuracy and parameters over N: {section.title}"
            method = section.view.sweeps[KERNELS].values("method")[0] if main else KERNEL_METHOD
            made.append(figure_data.grid_table(f"{KERNELS}{section.suffix}", title, swept))
            whole = f"Ablation of {method.upper()} over N, m and r" + ("" if main else f": {section.title}")
            made.append(figure_data.grid_table(f"ablation{section.suffix}", whole, section.grid))
    return made
