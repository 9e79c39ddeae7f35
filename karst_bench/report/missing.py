"""Cells that nothing has filled, and the exact command that fills each."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from karst_bench.report import catalog
from karst_bench.report.statistics import aggregate
from karst_bench.report.statistics.aggregate import MethodResults


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
            f"python run.py {self.words} dataset={dataset} backbone={self.backbone} "
            f"seed={','.join(map(str, seeds))}{several}"
        )


def table_gaps(suite: str, backbone: str, names: Sequence[str], ours: Mapping[str, list[MethodResults]]) -> list[Gap]:
    """Gaps of a table, tasks with the same missing seeds together, methods in table order."""
    gaps = []
    for method, words in dict.fromkeys(catalog.PAPER_METHODS[name] for name in names):
        row = next(iter(ours.get(method, [])), None)
        by_seeds: dict[tuple[int, ...], list[str]] = {}
        for task in catalog.tasks(suite):
            by_seeds.setdefault(aggregate.missing_seeds(row, task), []).append(f"{suite}/{task}")
        gaps += [Gap(method, tuple(tasks), seeds, words, backbone) for seeds, tasks in by_seeds.items() if seeds]
    return gaps


def few_shot_gaps(suite: str, backbone: str, ours: Mapping[str, list[MethodResults]]) -> list[Gap]:
    """Gaps of Figure 2: sets with the same missing shots together; seeds here are the split seeds."""
    gaps = []
    for method, words in catalog.FIGURE2.items():
        row = next(iter(ours.get(method, [])), None)
        by_shots: dict[tuple[int, ...], list[str]] = {}
        for dataset in catalog.FEWSHOT[suite]:
            task = dataset.split("/")[1]
            absent = tuple(shots for shots in catalog.SHOTS if row is None or f"{task}@{shots}" not in row.tasks)
            by_shots.setdefault(absent, []).append(dataset)
        for shots, datasets in by_shots.items():
            if shots:
                axes = f"{words} dataset.shots={','.join(map(str, shots))} "
                axes += f"dataset.split_seed={','.join(map(str, catalog.SPLIT_SEEDS))}"
                gaps.append(Gap(method, tuple(datasets), (0,), axes, backbone))
    return gaps


def kernel_gaps(suite: str, backbone: str, found: Sequence[int]) -> list[Gap]:
    """Gap of Figure 3: the numbers of kernels without any run."""
    absent = [n for n in catalog.KERNELS if n not in found]
    if not absent:
        return []
    held = " ".join(f"method.{key}={value}" for key, value in catalog.FIGURE3_HELD.items())
    words = f"method=karst method.N={','.join(map(str, absent))} {held}"
    datasets = tuple(f"{suite}/{task}" for task in catalog.tasks(suite))
    return [Gap("karst", datasets, catalog.SEEDS, words, backbone)]


def missing_page(gaps: Mapping[str, list[Gap]], suite: str) -> str:
    """Markdown: per table one command for each group of missing cells."""
    lines = [
        "# Missing runs",
        "",
        "Each command fills cells that no run has filled; finished runs are skipped.",
        "",
    ]
    for table, found in gaps.items():
        lines += [f"## {table}", ""]
        lines += [f"All of it: `python run.py sweep={table} suite={suite}`", ""] if found else []
        lines += [f"- {gap.method}, {len(gap.datasets)} datasets: `{gap.whole}`" for gap in found] or ["Complete."]
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
