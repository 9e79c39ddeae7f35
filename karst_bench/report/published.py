"""Numbers of others, results/published/*.csv: rows of a table with their source, never averaged with ours."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from karst_bench.names import printable
from karst_bench.report.suite import Suite
from karst_bench.report.table_model import TableCell, TableRow

COLUMNS = ("method", "backbone", "task", "value", "n", "protocol", "source")


@dataclass(frozen=True)
class PublishedRow:
    """What one source prints of one method under one protocol; values: task, group or average -> (top-1 %, seeds)."""

    method: str
    backbone: str
    protocol: str
    source: str
    values: Mapping[str, tuple[float, int | None]]


def published_rows(folders: Iterable[Path]) -> tuple[list[PublishedRow], list[str]]:
    """The rows of every CSV file of the folders, and a line for each that is left out: which, and why."""
    found: dict[tuple[str, str, str, str], dict[str, tuple[float, int | None]]] = {}
    left_out: list[str] = []
    for path in (path for folder in folders for path in sorted(folder.glob("*.csv"))):
        try:
            with path.open(newline="", encoding="utf-8") as file:
                lines = list(csv.DictReader(file))
        except (OSError, ValueError, csv.Error) as error:
            left_out.append(f"published/{printable(path.name)}: cannot be read ({type(error).__name__})")
            continue
        for number, line in enumerate(lines, start=2):
            if (reason := _wrong(line)) is not None:
                left_out.append(f"published/{printable(path.name)} line {number}: {printable(reason)}")
                continue
            values = found.setdefault((line["method"], line["backbone"], line["protocol"], line["source"]), {})
            said = float(line["value"]), int(line["n"]) if line["n"] else None
            if values.setdefault(line["task"], said) != said:
                left_out.append(f"published/{printable(path.name)} line {number}: {printable(line['task'])} of this source was "
                                f"{values[line['task']][0]:g} before and is {said[0]:g} here; the first counts")  # fmt: skip
    return [PublishedRow(*key, values) for key, values in found.items()], left_out


def _wrong(line: Mapping[str | None, str | None]) -> str | None:
    if set(line) != set(COLUMNS) or None in line.values():
        return f"needs the columns {', '.join(COLUMNS)}"
    if empty := [key for key in COLUMNS if key != "n" and not line[key]]:
        return f"{empty[0]} is empty"
    try:
        value, n = float(line["value"] or ""), int(line["n"] or 1)
    except ValueError:
        return f"value {line['value']} or n {line['n']} is no number"
    return None if 0 <= value <= 100 and n > 0 else f"value {value:g} or n {n} is out of range"


def of_backbones(rows: Sequence[PublishedRow], backbones: Sequence[str]) -> list[PublishedRow]:
    """The rows that stand in a table of these backbones."""
    return [row for row in rows if row.backbone in backbones]


def published_table_rows(rows: Sequence[PublishedRow], suite: Suite) -> tuple[list[TableRow], list[str]]:
    """The rows as a table shows them, and a line for each source and protocol with the values that have no column."""
    known = {*suite.task_names, *suite.groups, "group_avg", "task_avg"}
    made: list[TableRow] = []
    notes: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        cells = {"method": TableCell(printable(row.method, 60)), "source": TableCell("published")}
        for task, (value, n) in row.values.items():
            if task in known:
                cells[task] = TableCell(value=value, n=n)
        number = list(dict.fromkeys((other.source, other.protocol) for other in rows)).index((row.source, row.protocol)) + 1
        cells["provenance_key"] = TableCell(f"P{number}")
        line = notes.setdefault((row.source, row.protocol), [f"[P{number}] {row.source}: {row.protocol}"])
        line += [f"{row.method} {task} {value:g}" for task, (value, _) in row.values.items() if task not in known]
        if any(task in known for task in row.values):
            made.append(TableRow("published", cells, f"{row.source}: {row.protocol}"))
    return made, ["; ".join(printable(part, 200) for part in line) for line in notes.values()]
