"""All results as two CSV files: one line a run (long), one line a row of a table (wide)."""

import csv
import io
from collections.abc import Mapping, Sequence

from karst_bench.report.load import Run
from karst_bench.report.placing import Place, footing, place_of
from karst_bench.report.statistics import aggregate, cells

LONG = (
    "suite", "backbone", "dataset", "task", "group", "shots", "split_seed", "method", "tuned", "seed", "protocol", "top1_pct",
    "peak_top1_pct", "val_top1_pct", "test_images", "trainable_params", "step_ms", "other_than_default", "origin", "id", "created",
    "commit", "tables",
)  # fmt: skip


def long_csv(suite: str, runs: Sequence[Run], where: Mapping[Place, Sequence[str]]) -> str:
    """Every valid run, with the tables it stands in; none: it is among what was left out."""
    lines: list[list[object]] = []
    for run in sorted(runs, key=lambda r: (r.backbone, r.dataset, r.shots or 0, r.method, r.tuned, r.seed, place_of(r))):
        lines.append([
            suite, run.backbone, run.dataset, run.task, run.group, run.shots, run.split_seed, run.method, run.tuned, run.seed,
            run.protocol, run.last, run.peak, run.val, run.test_images or None, run.params, run.step_ms, "; ".join(run.deviations),
            run.origin, run.id, run.created, run.commit, " ".join(where.get(place_of(run), ())),
        ])  # fmt: skip
    return _text([LONG, *lines])


def wide_csv(suite: str, runs: Sequence[Run]) -> str:
    """A line for each row (backbone, protocol, method and setting), a column for each dataset: mean over seeds, and their number.
    Runs that measured val alone stand with their val accuracy, as their protocol says."""
    measured = [run if run.last is not None else cells.on_val(run) for run in runs]
    keyed: dict[tuple[str, str], list[Run]] = {}
    for run in (run for run in measured if run.last is not None):
        keyed.setdefault((run.backbone, footing(run)), []).append(run)
    rows = [
        (backbone, foot, results)
        for (backbone, foot), members in sorted(keyed.items())
        for settings in aggregate.method_results(members, full_names=True).values()
        for results in settings
        if results.tasks
    ]
    names = sorted({name for _, _, results in rows for name in results.tasks})
    lines: list[list[object]] = []
    for backbone, foot, results in rows:
        origins = "+".join(sorted({run.origin for run in results.runs}))
        line: list[object] = [suite, backbone, foot, results.label, results.method, results.tuned, origins, results.params_m]
        for name in names:
            found = results.tasks.get(name)
            line += [None, None] if found is None else [found.estimate.value, found.estimate.n]
        lines.append(line)
    head = ["suite", "backbone", "protocol", "row", "method", "tuned", "origin", "params_m"]
    return _text([[*head, *(key for name in names for key in (name, f"{name}_n"))], *lines])


def _text(lines: Sequence[Sequence[object]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerows([f"{v:.6g}" if isinstance(v, float) else "" if v is None else v for v in line] for line in lines)
    return out.getvalue()
