"""Cells that nothing has filled, and the exact command that fills each."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from karst_bench.config.option_files import options
from karst_bench.config.sweep_files import SweepFile
from karst_bench.report.statistics import aggregate
from karst_bench.report.statistics.aggregate import MethodResults, ResultsByMethod
from karst_bench.report.suite import PlannedRow, Suite, planned_rows


@dataclass(frozen=True)
class Gap:
    """Missing runs of one method: the datasets and the seeds none of them has."""

    method: str
    datasets: tuple[str, ...]
    seeds: tuple[int, ...]
    words: str
    backbone: str

    def command(self, dataset: str) -> str:
        """What fills one cell."""
        return self.line(dataset, self.seeds)

    @property
    def whole(self) -> str:
        """What fills all cells of the gap at once."""
        return self.line(",".join(self.datasets), self.seeds)

    def line(self, dataset: str, seeds: Sequence[int]) -> str:
        """The command for a comma list of datasets and seeds; multirun only where there is more than one job."""
        several = " -m" if len(seeds) > 1 or "," in dataset + self.words else ""
        return (
            f"karst-bench run {self.words} dataset={dataset} backbone={self.backbone} "
            f"seed={','.join(map(str, seeds))}{several}"
        )


def buildable(sweep: SweepFile) -> list[PlannedRow]:
    """The planned rows whose method exists here: no command is offered for the others."""
    known = options("method")
    return [row for row in planned_rows(sweep) if "experiment" in sweep.axes or row.method in known]


def unbuilt(sweep: SweepFile) -> list[str]:
    """The methods that a sweep's file names and that do not exist here."""
    there = {row.method for row in buildable(sweep)}
    return [row.method for row in planned_rows(sweep) if row.method not in there]


def table_gaps(sweep: SweepFile, suite: Suite, ours: ResultsByMethod) -> list[Gap]:
    """Gaps of a table, tasks with the same missing seeds together, methods in table order."""
    gaps = []
    seeds, (backbone,) = tuple(map(int, sweep.values("seed"))), sweep.values("backbone")
    for row in buildable(sweep):
        results = planned_result(ours.get(row.method, []), sweep.tuned)
        words = row.words + shared_words(sweep, results.tuned if results else None)
        by_seeds: dict[tuple[int, ...], list[str]] = {}
        for task in suite.tasks:
            by_seeds.setdefault(aggregate.missing_seeds(results, task.task, seeds), []).append(task.option)
        gaps += [
            Gap(row.method, tuple(names), lacking, words, backbone)
            for lacking, names in by_seeds.items()
            if lacking
        ]
    return gaps


def shared_words(sweep: SweepFile, tuned: str | None = None) -> str:
    """What each of its commands says beside method, task and seed. tuned: in place of how the sweep plans it."""
    chosen = {"tuned": (tuned or sweep.tuned,), "protocol": sweep.axes.get("protocol", ())}
    return "".join(f" {key}={','.join(names)}" for key, names in chosen.items() if names and names != ("none",))


def planned_result(settings: Sequence[MethodResults], tuned: str) -> MethodResults | None:
    """The row that a sweep fills: tuned as it plans and deviating in nothing; where it plans no tuning, the tuned one too if
    there is no other. Of another, no command of the sweep would fill a cell."""
    plain = [row for row in settings if row.layer == 0 and row.tasks and not row.deviations]
    return next((row for row in plain if tuned in ("none", row.tuned)), None)


def few_shot_gaps(sweep: SweepFile, suite: Suite, ours: ResultsByMethod) -> list[Gap]:
    """Gaps of Figure 2: sets that lack the same splits at the same shots together."""
    gaps = []
    (backbone,), splits = sweep.values("backbone"), tuple(map(int, sweep.values("dataset.split_seed")))
    for row in buildable(sweep):
        results = planned_result(ours.get(row.method, []), sweep.tuned)
        open_cells: dict[tuple[tuple[str, ...], tuple[int, ...]], list[str]] = {}
        for dataset in suite.few_shot_sets:
            by_splits: dict[tuple[int, ...], list[str]] = {}
            for n in sweep.values("dataset.shots"):
                by_splits.setdefault(aggregate.missing_splits(results, f"{dataset.task}@{n}", splits), []).append(n)
            for lacking, shots in by_splits.items():
                open_cells.setdefault((tuple(shots), lacking), []).append(dataset.option)
        for (at, lacking), datasets in open_cells.items():
            if lacking:
                words = f"{row.words} dataset.shots={','.join(at)} dataset.split_seed={','.join(map(str, lacking))}"
                words += shared_words(sweep, results.tuned if results else None)
                gaps.append(Gap(row.method, tuple(datasets), (0,), words, backbone))
    return gaps


def kernel_gaps(sweep: SweepFile, suite: Suite, ours: ResultsByMethod) -> list[Gap]:
    """Gaps of Figure 3: for each number of kernels the tasks and seeds that its setting lacks."""
    (method,), (backbone,) = sweep.values("method"), sweep.values("backbone")
    seeds = tuple(map(int, sweep.values("seed")))
    held = {key: values[0] for key, values in sweep.axes.items() if key.startswith("method.") and key != "method.N"}
    open_cells: dict[tuple[tuple[str, ...], tuple[int, ...]], list[str]] = {}
    for n in sweep.values("method.N"):
        wanted = held | {"method.N": n}
        results = next((row for row in ours.get(method, []) if _swept(row, wanted, sweep.tuned)), None)
        by_seeds: dict[tuple[int, ...], list[str]] = {}
        for task in suite.tasks:
            by_seeds.setdefault(aggregate.missing_seeds(results, task.task, seeds), []).append(task.option)
        for lacking, names in by_seeds.items():
            if lacking:
                open_cells.setdefault((tuple(names), lacking), []).append(n)
    words = " ".join(f"{key}={value}" for key, value in held.items()) + shared_words(sweep)
    return [
        Gap(method, names, lacking, f"method={method} method.N={','.join(counts)} {words}".rstrip(), backbone)
        for (names, lacking), counts in open_cells.items()
    ]


def _swept(row: MethodResults, wanted: Mapping[str, str], tuned: str) -> bool:
    """Whether a row is the default configuration, tuned as the sweep plans, but for the values that the sweep gives."""
    others = [said for said in row.deviations if f"method.{said.partition('=')[0]}" not in wanted] if row.tasks else ["no run"]
    return row.tuned == tuned and not others and wanted.items() <= dict(row.setting).items()


def missing_page(gaps: Mapping[str, list[Gap]], suite: str, absent: Mapping[str, list[str]]) -> str:
    """Markdown: per table one command for each group of missing cells, and the methods of its file that are not built."""
    lines = [
        "# Missing runs",
        "",
        "Each command fills cells that no run has filled; finished runs are skipped.",
        "",
    ]
    for table, found in gaps.items():
        lines += [f"## {table}", ""]
        lines += [f"All of it: `karst-bench run sweep={table} suite={suite}`", ""] if found else []
        lines += [f"- {gap.method}, {len(gap.datasets)} datasets: `{gap.whole}`" for gap in found] or ["Complete."]
        lines += [f"- not built here: {', '.join(absent[table])}"] if absent.get(table) else []
        lines.append("")
    return "\n".join(lines)


def missing_csv(gaps: Mapping[str, list[Gap]]) -> str:
    """One line per missing cell with the command that fills it."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["table", "method", "dataset", "seeds", "command"])
    for table, found in gaps.items():
        for gap in found:
            for dataset in gap.datasets:
                seeds = " ".join(map(str, gap.seeds))
                writer.writerow([table, gap.method, dataset, seeds, gap.command(dataset)])
    return out.getvalue()
