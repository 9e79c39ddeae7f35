"""Which runs there are, what they cost, what is missing, and how far to trust them."""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from karst_bench.report.load import Run
from karst_bench.report.report import report_gaps, run_notes
from karst_bench.report.statistics import aggregate, compare, pages
from karst_bench.report.suite import MAIN, planned_rows
from karst_bench.yaml_text import load_yaml
from scripts.results_mini.evidence import Evidence, grid, listed

TUNED = Path(__file__).resolve().parents[2] / "conf" / "tuned" / "ours"
HOUR = 3600.0


def what_ran(seen: Evidence) -> str:
    """Which runs, on which machine, in how many hours, with which versions."""
    machines: dict[str, list[Run]] = {}
    for run in seen.runs:
        machines.setdefault(run.machine, []).append(run)
    lines = [
        [name, str(len(runs)), f"{_hours(runs):.2f}", ", ".join(sorted({run.backbone for run in runs}))]
        for name, runs in sorted(machines.items(), key=lambda item: -len(item[1]))
    ]
    days = sorted(run.created[:10] for run in seen.runs)
    packages = Counter(
        ", ".join(f"{name} {run.record.provenance.packages.get(name, '?')}" for name in ("torch", "timm"))
        for run in seen.runs if run.record is not None
    )  # fmt: skip
    protocols = Counter(run.protocol for run in seen.runs)
    text = [
        f"{len(seen.runs)} records of {len({run.method for run in seen.runs})} methods on "
        f"{len({run.dataset for run in seen.runs})} data sets and {len({run.backbone for run in seen.runs})} backbones, "
        f"{_hours(seen.runs):.1f} hours of run time in all ({days[0]} to {days[-1]}). "
        f"Protocols: {_counts(protocols)}. Versions: {_counts(packages)}.",
        "",
        grid(["machine", "runs", "hours", "backbones"], lines),
        "",
        "Hours are wall-clock seconds of the records added up; several runs may have shared a machine, so they bound what one core "
        "needs from above.",
    ]
    return "\n".join(text)


def _hours(runs: Iterable[Run]) -> float:
    return sum((run.record.seconds.total_s or 0.0) / HOUR for run in runs if run.record is not None)


def _counts(found: Counter[str]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in sorted(found.items(), key=lambda item: (-item[1], item[0])))


def missing(seen: Evidence) -> str:
    """What each table and figure lacks, in cells; and Table I's methods without a run."""
    suite = seen.suite
    found = report_gaps(suite, seen.placed)
    lines = [
        [name, str(sum(len(gap.datasets) for gap in gaps)) if gaps else "complete"] for name, gaps in found.items()
    ]
    absent = [row.method for row in planned_rows(suite.sweeps[MAIN]) if row.method not in seen.main]
    note = f"Of Table I's methods without any run: {listed(absent)}. `karst-bench status suite=mini` lists what is missing."
    return "\n".join([grid(["planned by", "cells that lack runs"], lines), "", note])


def search(_: Evidence) -> str:
    """What the searches of learning rates chose and what they cost in runs, from conf/tuned/ours."""
    lines, total = [], 0
    for path in sorted(TUNED.glob("*.yaml")):
        for backbone, where, values, provenance in _searched(load_yaml(path)):
            tried = {str(rate): scores for rate, scores in provenance.get("val_top1_pct", {}).items()}
            shared = provenance.get("shared_with")
            chosen = ", ".join(f"{rate:g}" for rate in sorted({float(value["recipe.lr"]) for value in values}))
            runs = sum(len(scores) for scores in tried.values())
            total += runs
            seen = f"none: as `{shared}`" if shared else " ".join(tried)
            lines.append([f"`{path.stem}`", backbone, where, chosen, seen, str(runs)])
    text = ("One learning rate a method and backbone: the best mean of val200 over three tasks, one seed; for the few-shot sets "
            "the best mean of val over both at 4 shots of the first split. No test split chose anything.")  # fmt: skip
    heads = ["method", "backbone", "for", "chosen", "tried", "runs"]
    return "\n".join([text, "", grid(heads, lines, 3), "", f"{total} runs in all."])


def _searched(table: Any) -> Iterator[tuple[str, str, list[Any], Any]]:
    """Backbone, tasks or few-shot sets, their values and provenance of each search of a tuned table, in either of its layouts."""
    for part in table.get("searched", ()):
        for where, key, few_shot in (("tasks", "provenance", False), ("few-shot", "few_shot_provenance", True)):
            if key in part:
                values = [value for name, value in part["values"].items() if name.startswith("mini/fs_") == few_shot]
                yield part["backbone"]["name"], where, values, part[key]
    for part in (table, *(table[family] for family in ("vit", "swin") if family in table)):
        values = [value for key, value in part.items() if str(key).startswith("mini/")]
        if values:
            yield part["provenance"]["backbone"], "tasks", values, part["provenance"]


def trust(seen: Evidence) -> str:
    """What the statistics say of themselves: agreement of tasks, independence of seeds, what was left out."""
    tasks = seen.suite.task_names
    lines = []
    agreed = compare.agreement(pages.task_means(seen.main, tasks))
    if agreed is not None:
        lines.append(
            f"- Tasks agree on the order of methods with a mean Spearman correlation of {agreed.mean:.2f} (lowest "
            f"{agreed.lowest:.2f}). {pages.consequence(agreed.mean)}"
        )
    complete = aggregate.complete_results(seen.main, tasks)
    ratio = aggregate.variance_ratio(complete, tasks, seen.suite.group_weights)
    if ratio is not None:
        lines.append(
            f"- The intervals of averages take the seeds of different tasks as independent: variance ratio {ratio[0]:.2f} over "
            f"{ratio[1]} methods, where independence gives 1."
        )
    errors = [cell.test_error for row in complete for cell in row.tasks.values()]
    if errors:
        span = f"{min(errors):.1f} to {max(errors):.1f} points a cell"
        lines.append(f"- The finite test sets alone have a standard error of {span}; it is in no interval.")
    lines += [f"- {note}" for note in run_notes(seen.runs, seen.suite, {})]
    return "\n".join(lines)
