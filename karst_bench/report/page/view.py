"""A table as the page shows it: rows with a name for links, cells in parts, heads in groups."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from karst_bench.report import formats
from karst_bench.report.page.text import rounded, visible
from karst_bench.report.table_model import Column, Table, TableCell, TableRow

NAMED = ("method", "set", "first", "second", "table", "cell", "N", "m", "r")  # columns whose texts name a row
NAMES_METHODS = ("first", "second", "method")
TEXTS = (*formats.LEFT, "provenance_key")  # columns sorted as text


@dataclass(frozen=True)
class CellView:
    """One cell. main: the number or text; small: interval and n below it; target: what a link leads to, quoted, "" for no link."""

    main: str
    small: str
    mark: str
    hint: str
    value: float | None
    target: str
    tags: tuple[str, ...] = ()
    left: bool = False


@dataclass(frozen=True)
class RowView:
    """One row. key: its name in links, unlike any other of its table; kind: how its values were tuned; seeds: least n."""

    key: str
    source: str
    kind: str
    cells: tuple[CellView, ...]


@dataclass(frozen=True)
class TableView:
    """One table; groups: title and width of the heads above the heads; marked: whether a best number is."""

    name: str
    title: str
    columns: tuple[Column, ...]
    groups: tuple[tuple[str, int], ...]
    rows: tuple[RowView, ...]
    notes: tuple[str, ...]
    marked: bool


def table_view(table: Table, runs_of: Mapping[str, tuple[str, ...]]) -> TableView:
    """The table in its Markdown columns. runs_of: label of a method's row -> ids of its records, for texts that name one."""
    columns = tuple(column for column in table.shown("md") if _tells(table, column))
    keys = row_keys(table)
    rows = tuple(
        RowView(visible(key), row.source, row.kind, tuple(_cell(table.name, key, c, row, runs_of) for c in columns))
        for key, row in zip(keys, table.rows, strict=True)
    )
    marked = any(cell.mark for row in rows for cell in row.cells)
    return TableView(
        table.name, table.title, columns, _groups(columns), rows, tuple(map(visible_note, table.notes)), marked
    )


def visible_note(note: str) -> str:
    """A line below a table."""
    return visible(note, 2000)


def _tells(table: Table, column: Column) -> bool:
    """Whether a column says anything: not one source for all rows, nor dashes alone beside the accuracies."""
    if column.key == "source":
        return len({row.source for row in table.rows}) > 1
    return column.ranked or not all(row.cells.get(column.key, TableCell()).empty for row in table.rows)


def row_keys(table: Table) -> list[str]:
    """A name for each row, from its texts; what would be named twice gets a number."""
    found: list[str] = []
    for row in table.rows:
        texts = [
            row.cells[column.key].text for column in table.columns if column.key in NAMED and column.key in row.cells
        ]
        name = " · ".join(text for text in texts if text) or "row"
        name += "" if row.source == "ours" else f" ({row.source})"
        alike = sum(key == name or key.startswith(f"{name} #") for key in found)
        found.append(f"{name} #{alike + 1}" if alike else name)
    return found


def cell_runs(cell: TableCell, column: str, runs_of: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Ids of the records behind a cell, those of the row that it names where it is a name."""
    return cell.runs or (runs_of.get(cell.text, ()) if column in NAMES_METHODS and cell.value is None else ())


def _cell(table: str, key: str, column: Column, row: TableRow, runs_of: Mapping[str, tuple[str, ...]]) -> CellView:
    cell = row.cells.get(column.key, TableCell())
    main, small, tags = _parts(cell, column.key)
    hint = f"standard error of the finite test set: {cell.test_error:.2f} points" if cell.test_error is not None else ""
    standing = row.source == "ours" and not cell.empty and cell.value is not None  # then on the records of its row
    linked = bool(cell_runs(cell, column.key, runs_of)) or standing
    target = "/".join(quote(part, safe="") for part in (table, visible(key), column.key)) if linked else ""
    return CellView(main, small, cell.mark, hint, rounded(cell.value), target, tags, column.key in TEXTS)


def _parts(cell: TableCell, column: str) -> tuple[str, str, tuple[str, ...]]:
    """The value, what stands small below it, and the deviations of a name as tags."""
    whole = visible(formats.cell_text(cell))
    if cell.value is None and column in NAMED and whole.endswith("]") and " [" in whole:
        name, _, rest = whole.partition(" [")
        return name, "", tuple(rest.removesuffix("]").split(", "))
    if cell.empty or cell.value is None or cell.bracket:
        return whole, "", ()
    main = formats.value_text(cell)
    return main, whole.removeprefix(main).strip(), ()


def _groups(columns: Sequence[Column]) -> tuple[tuple[str, int], ...]:
    if not any(column.group for column in columns):
        return ()
    found: list[tuple[str, int]] = []
    for column in columns:
        if found and found[-1][0] == column.group:
            found[-1] = (column.group, found[-1][1] + 1)
        else:
            found.append((column.group, 1))
    return tuple(found)


def table_data(table: Table, runs_of: Mapping[str, tuple[str, ...]], number: Mapping[str, int]) -> dict[str, object]:
    """What plots and links need: per row its cells as {v, lo, hi, n, r}, r the numbers of its records."""
    rows = []
    for key, row in zip(row_keys(table), table.rows, strict=True):
        cells = {column.key: _data(row.cells[column.key], column.key, runs_of, number)
                 for column in table.columns if column.key in row.cells}  # fmt: skip
        rows.append(
            {"k": visible(key), "source": row.source, "kind": row.kind, "cells": {k: v for k, v in cells.items() if v}}
        )
    columns = [{"k": c.key, "title": visible(c.title), "ranked": c.ranked, "group": c.group} for c in table.columns]
    return {"title": visible(table.title), "columns": columns, "rows": rows}


def _data(
    cell: TableCell, column: str, runs_of: Mapping[str, tuple[str, ...]], number: Mapping[str, int]
) -> dict[str, object]:
    runs = sorted({number[run] for run in cell_runs(cell, column, runs_of) if run in number})
    found: dict[str, object] = {"x": visible(cell.text)} if cell.text else {}
    if cell.value is not None:
        found |= {
            "v": rounded(cell.value),
            "lo": rounded(cell.low),
            "hi": rounded(cell.high),
            "n": cell.n,
            "d": cell.digits,
        }
    kept = {key: value for key, value in found.items() if value is not None}
    return kept | ({"r": runs} if runs else {})
