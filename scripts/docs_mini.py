"""The tables of docs/mini.md from the committed records: python scripts/docs_mini.py

Every figure is a mean over records with its 95 % interval; nothing is typed. The text between the markers is replaced.
"""

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

from tabulate import tabulate

from karst_bench import files
from karst_bench.cli.app import generator
from karst_bench.report.load import Run, load_runs
from karst_bench.report.statistics import aggregate, compare, intervals
from karst_bench.report.statistics.aggregate import MethodResults
from karst_bench.report.statistics.intervals import Estimate
from karst_bench.report.suite import load_suite

ROOT = Path(__file__).resolve().parents[1]

PAGE = ROOT / "docs" / "mini.md"
RESULTS = ROOT / "results" / "reference" / "mini"
MARKS = re.compile(r"(<!-- records: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
TASKS = load_suite("mini").task_names
SEARCHED = {
    "random, linear": ("linear", "ours_random"), "linear": ("linear", "ours"), "LoRA": ("lora", "ours"),
    "KARST": ("karst", "ours"), "full": ("full", "ours"),
}  # fmt: skip
DIFFERENCES = [("linear", "random, linear"), ("LoRA", "linear"), ("KARST", "linear"), ("KARST", "LoRA")]
EVERY = ("digits", "cells", "distance")
BACKBONES = ("vit_mini", "swin_mini")


def shown(estimate: Estimate | None) -> str:
    """52.1 ± 1.3 (3): mean, half of the 95 % interval, number of runs."""
    if estimate is None:
        return "—"
    half = "" if estimate.half is None else f" ± {estimate.half:.1f}"
    return f"{estimate.value:.1f}{half} ({estimate.n})"


def rows_of(runs: Sequence[Run], backbone: str) -> dict[tuple[str, str], MethodResults]:
    """(method, tuned) -> its row on that backbone; untuned at the default lr, random weights only under ours_random."""
    found: dict[tuple[str, str], MethodResults] = {}
    for settings in aggregate.method_results(run for run in runs if run.backbone == backbone).values():
        for row in settings:
            facts = dict(row.setting)
            random = facts["weights"] == "none"
            changed = row.layer > 0 or any(not item.startswith(("weights=", "budget=")) for item in row.deviations)
            if random == (row.tuned == "ours_random") and not changed and row.tasks:
                found[row.method, row.tuned] = row
    return found


def searched(runs: Sequence[Run]) -> str:
    """For each backbone a line per task, the mean of the nine, and what the columns differ by."""
    return "\n\n".join(f"**{backbone}**\n\n{_searched_on(runs, backbone)}" for backbone in BACKBONES)


def _searched_on(runs: Sequence[Run], backbone: str) -> str:
    weights = [1 / len(TASKS)] * len(TASKS)
    rows = rows_of(runs, backbone)
    picked = {title: rows.get(key) for title, key in SEARCHED.items()}
    lines = [
        [task, *(shown(row.tasks[task].estimate if row and task in row.tasks else None) for row in picked.values())]
        for task in TASKS
    ]
    means = {title: aggregate.mean_over(row, TASKS, weights) if row else None for title, row in picked.items()}
    lines.append(["mean of nine", *(shown(mean) for mean in means.values())])
    table = tabulate(lines, headers=["task", *SEARCHED], tablefmt="pipe", colalign=["left", *["right"] * len(SEARCHED)])
    return "\n\n".join([table, *(["\n".join(said)] if (said := differences(picked)) else [])])


def differences(picked: dict[str, MethodResults | None]) -> list[str]:
    """A line for each of DIFFERENCES: the mean over tasks with its interval, and the task where it is smallest."""
    lines = []
    for first, second in DIFFERENCES:
        one, two = picked[first], picked[second]
        if one is None or two is None or not all(task in one.tasks and task in two.tasks for task in TASKS):
            continue
        gaps = [compare.paired_differences(_by_seed(one, task), _by_seed(two, task)) for task in TASKS]
        if not all(gaps):
            continue
        mean = intervals.average_interval(gaps, [1 / len(TASKS)] * len(TASKS))
        by_task = {task: fmean(gap) for task, gap in zip(TASKS, gaps, strict=True)}
        low = min(by_task, key=lambda task: by_task[task])
        lines.append(f"- {first} minus {second}: {shown(mean)} points; smallest on {low}, {by_task[low]:+.1f}.")
    return lines


def _by_seed(row: MethodResults, task: str) -> dict[int, float]:
    return {run.seed: float(run.last or 0.0) for run in row.tasks[task].runs}


def every(runs: Sequence[Run]) -> str:
    """Every method on three tasks and both backbones, one seed, the searched probe first; below it in italics."""
    lines, notes = [], []
    both = {backbone: rows_of(runs, backbone) for backbone in BACKBONES}
    methods = {
        method
        for rows in both.values()
        for (method, tuned), row in rows.items()
        if tuned == "ours" and set(EVERY) & set(row.tasks)
    }
    for method in ("linear", *sorted(methods - {"linear"})):
        line = [f"`{method}`"]
        for rows in both.values():
            line += [_against(rows, (method, "ours"), task) for task in EVERY]
        lines.append(line)
    for backbone, rows in both.items():
        plain = {method: row.tasks for (method, tuned), row in rows.items() if tuned == "ours"}
        means = {
            m: {task: cells[task].estimate.value for task in EVERY if task in cells} for m, cells in plain.items()
        }
        agreed = compare.agreement(means)
        if agreed is not None:
            notes.append(
                f"- {backbone}: mean Spearman correlation between two of the three tasks {agreed.mean:.2f} (lowest "
                f"{agreed.lowest:.2f}), {agreed.methods} methods."
            )
    heads = ["method", *(f"{backbone.removesuffix('_mini')}: {task}" for backbone in both for task in EVERY)]
    table = tabulate(lines, headers=heads, tablefmt="pipe", colalign=["left", *["right"] * 6], disable_numparse=True)
    return table + "\n\n" + "\n".join(notes)


def _against(rows: dict[tuple[str, str], MethodResults], key: tuple[str, str], task: str) -> str:
    row, probe = rows.get(key), rows.get(("linear", "ours"))
    if row is None or task not in row.tasks:
        return "—"
    value = _first(row, task)
    below = probe is not None and task in probe.tasks and value < _first(probe, task)
    return f"*{value:.1f}*" if below else f"{value:.1f}"


def _first(row: MethodResults, task: str) -> float:
    """The run with the lowest seed: 0 of nearly every method."""
    return float(min(row.tasks[task].runs, key=lambda run: run.seed).last or 0.0)


TABLES: dict[str, Callable[[Sequence[Run]], str]] = {"searched": searched, "every": every}


def render(text: str, runs: Sequence[Run]) -> str:
    """The page with its tables made anew."""
    return MARKS.sub(lambda found: f"{found[1]}{TABLES[found[2]](runs)}\n{found[3]}", text)


def records(folder: Path) -> list[Run]:
    """The finished runs that trained on everything and looked once."""
    runs, left_out = load_runs(folder, "mini")
    for line in left_out:
        print(f"left out: {line}", file=sys.stderr)
    return [run for run in runs if run.protocol in ("last", "peek10")]


def main() -> None:
    """Write the tables of docs/mini.md anew from the committed records."""
    runs = records(RESULTS)
    files.write(PAGE, render(PAGE.read_text(), runs).encode(), once=False)
    print(f"{PAGE.relative_to(ROOT)}: {len(runs)} records")


if __name__ == "__main__":
    generator(main)
