"""Cells out of this installation, records of others into it."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from karst_bench import files
from karst_bench.errors import UserError
from karst_bench.names import printable
from karst_bench.report.load import BadRecordError, Run, read_run
from karst_bench.report.statistics import aggregate


def exported_cells(runs: Sequence[Run]) -> list[dict[str, object]]:
    """Every cell: what ran, n, mean, interval, the seeds with their values and ids, protocol and provenance."""
    cells: list[dict[str, object]] = []
    for backbone in sorted({run.backbone for run in runs}):
        measured = [run for run in runs if run.backbone == backbone and run.last is not None]
        for rows in aggregate.method_results(measured, full_names=True).values():
            for results in rows:
                for name, cell in results.tasks.items():
                    facts = {key: sorted({dict(run.provenance_key).get(key, "") for run in cell.runs}) for key in FACTS}
                    cells.append({
                        "suite_backbone": backbone, "cell": name, "method": results.method, "label": results.label,
                        "tuned": results.tuned, "n": cell.estimate.n, "mean_top1_pct": cell.estimate.value,
                        "ci95_low": cell.estimate.low, "ci95_high": cell.estimate.high, "params": cell.runs[0].params,
                        "test_images": cell.runs[0].test_images, "seeds": [run.seed for run in cell.runs],
                        "top1_pct": cell.scores, "ids": [run.id for run in cell.runs],
                        "origin": sorted({run.origin for run in cell.runs}),
                        "other_than_default": list(results.deviations), **facts,
                        "conflicts": [conflict.line for conflict in results.conflicts if conflict.cell == name],
                    })  # fmt: skip
    return cells


FACTS = ("recipe", "protocol", "normalization", "encoding", "precision", "weights", "code", "with")


def write_export(cells: Sequence[Mapping[str, object]], to: Path) -> None:
    """The cells as JSON or CSV, by the file's ending. Raises: UserError for another ending or a file that cannot be written."""
    if to.suffix == ".json":
        text = json.dumps(cells, indent=1) + "\n"
    elif to.suffix == ".csv":
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        keys = list(cells[0]) if cells else []
        writer.writerow(keys)
        for cell in cells:
            writer.writerow([" | ".join(map(str, v)) if isinstance(v, list) else "" if v is None else v for v in cell.values()])
        text = out.getvalue()
    else:
        raise UserError(f"to={to} ends in neither .json nor .csv")
    files.write(to, text.encode(), once=False, setting="to")


def import_records(source: Path, target: Path, suite: str) -> tuple[list[str], list[str]]:
    """Copies the valid records of a folder to `target`, each once; returns the ids copied and a line for each file left out.

    Raises: UserError where `source` is no folder or `target` cannot be written.
    """
    if not source.is_dir():
        raise UserError(f"{source} is no folder")
    copied, left_out = [], []
    for path in sorted(source.rglob("*.json")):
        place = printable(path.relative_to(source).as_posix())
        try:
            if not path.resolve().is_relative_to(source.resolve()):
                raise BadRecordError("a link to a file outside this folder")
            run, data = read_run(path, suite), path.read_bytes()
        except BadRecordError as error:
            left_out.append(f"{place}: {printable(str(error))}")
            continue
        there = target / f"{run.id}.json"
        if files.write(there, data, once=True):
            copied.append(run.id)
        elif there.read_bytes() != data:
            left_out.append(f"{place}: another record of this id was imported before")
    return copied, left_out
