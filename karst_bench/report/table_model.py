"""A table as data: cells, columns, rows. tables.py and others fill it, formats.py writes it in each form."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from karst_bench.report.statistics.intervals import Estimate

FORMS = ("terminal", "md", "csv", "tex")
Weights = Sequence[float]


@dataclass(frozen=True)
class TableCell:
    """One cell: a text, or a number with its digits, 95 % interval, n, test-set error, recomputed value and rank.

    bracket: show the interval instead of the value. floor: show "<floor" for a smaller value.
    mark: "", "best" or "second". runs: ids of the records that it stands on.
    """

    text: str = ""
    value: float | None = None
    digits: int = 1
    low: float | None = None
    high: float | None = None
    n: int | None = None
    test_error: float | None = None
    recomputed: float | None = None
    bracket: bool = False
    floor: float | None = None
    mark: str = ""
    runs: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        """Nothing ran, or nothing was printed: an em dash."""
        return (self.value is None and not self.text) or (self.bracket and self.low is None)

    @property
    def compared(self) -> float | None:
        """The value that ranks the cell: as printed, or recomputed where the print is wrong."""
        value = self.value if self.recomputed is None else self.recomputed
        return None if value is None else round(value, self.digits)


@dataclass(frozen=True)
class Column:
    """Key (CSV), heading, whether best and second are marked (larger is better), forms it is shown in, group."""

    key: str
    title: str
    ranked: bool = False
    forms: tuple[str, ...] = FORMS
    group: str = ""


@dataclass(frozen=True)
class TableRow:
    """One row of a table. source is "paper", "ours" or a label of published numbers; kind: the tuning of our rows.

    Cells are ranked among rows of one source and kind, and among equal numbers of seeds.
    """

    source: str
    cells: dict[str, TableCell]
    kind: str = ""


@dataclass(frozen=True)
class Table:
    """A finished table; the missing runs are listed apart (missing.py)."""

    name: str
    title: str
    columns: list[Column]
    rows: list[TableRow]
    notes: list[str] = field(default_factory=list)

    def shown(self, form: str) -> list[Column]:
        """The columns of one form."""
        return [column for column in self.columns if form in column.forms]


def estimate_cell(
    estimate: Estimate | None, digits: int = 1, test_error: float | None = None, runs: tuple[str, ...] = ()
) -> TableCell:
    """A cell from an estimate, empty where there is none."""
    if estimate is None:
        return TableCell()
    equal = "all equal" if estimate.n > 1 and estimate.low is None else ""
    return TableCell(equal, estimate.value, digits, estimate.low, estimate.high, estimate.n, test_error, runs=runs)


def with_ranks(columns: list[Column], rows: list[TableRow]) -> list[TableRow]:
    """Best and second of every ranked column, at the printed precision, among like rows: one source, one kind of tuning, one
    number of seeds (>= 2 numbers there)."""
    marks: dict[tuple[int, str], str] = {}
    for column in (column for column in columns if column.ranked):
        like: dict[tuple[str, str, int], dict[int, float]] = {}
        for index, row in enumerate(rows):
            cell = row.cells.get(column.key, TableCell())
            if cell.compared is not None:
                like.setdefault((row.source, row.kind, cell.n or 0), {})[index] = cell.compared
        for values in like.values():
            levels = sorted(set(values.values()), reverse=True)[:2] if len(values) > 1 else []
            for index, value in values.items():
                if value in levels:
                    marks[index, column.key] = ("best", "second")[levels.index(value)]
    return [
        replace(row, cells={k: replace(b, mark=marks.get((index, k), "")) for k, b in row.cells.items()})
        for index, row in enumerate(rows)
    ]
