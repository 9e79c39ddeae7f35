"""A table in each of its forms: terminal, Markdown, CSV, LaTeX. Every text from outside is escaped for its form."""

import csv
import io

from tabulate import tabulate

from karst_bench.report.table_model import Column, Table, TableCell

DASH = "—"
LEFT = ("method", "source", "first", "second", "set", "table", "cell")
TURNED, PAGE = 14, 45  # columns beyond which headings are turned; lines beyond which a LaTeX table runs over pages
TEX_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "±": r"$\pm$", "—": "---", "[": "{[}", "]": "{]}",
}  # fmt: skip


def value_text(cell: TableCell) -> str:
    """The number of a cell alone."""
    if cell.floor is not None and cell.value is not None and cell.value < cell.floor:
        return f"<{cell.floor:g}"
    return f"{cell.value:.{cell.digits}f}"


def cell_text(cell: TableCell) -> str:
    """A cell as text: 76.8 ±0.4 (3); a misprint as 77.9 [!77.41]; an interval as [76.4, 77.2]."""
    if cell.empty:
        return DASH
    if cell.value is None:
        return cell.text
    if cell.bracket:
        return f"[{cell.low:.{cell.digits}f}, {cell.high:.{cell.digits}f}]"
    parts = [value_text(cell)]
    if cell.recomputed is not None:
        parts.append(f"[!{cell.recomputed:.2f}]")
    if cell.low is not None and cell.high is not None:
        parts.append(f"±{(cell.high - cell.low) / 2:.{cell.digits}f}")
    if cell.n is not None:
        parts.append(f"({cell.n})")
    return " ".join([*parts, cell.text] if cell.text else parts)


def to_terminal(table: Table, colour: bool = False) -> str:
    """For a terminal: the narrow columns; best bold and second underlined where it shows colour. A row of which no number fits is
    named below."""
    columns = table.shown("terminal")
    codes = {"best": "\033[1m", "second": "\033[4m"}

    def show(cell: TableCell) -> str:
        text = cell_text(cell)
        return f"{codes[cell.mark]}{text}\033[0m" if colour and cell.mark else text

    told = [row for row in table.rows if any(not row.cells.get(c.key, TableCell()).empty for c in columns if c.ranked)]
    rows = told or table.rows
    body = [[show(row.cells.get(column.key, TableCell())) for column in columns] for row in rows]
    grid = tabulate(body, headers=[c.title for c in columns], tablefmt="simple", disable_numparse=True)
    narrow = [cell_text(row.cells[table.columns[0].key]) for row in table.rows if row not in rows]
    note = f"On some tasks alone, in {table.name}.md: {', '.join(narrow)}\n" if narrow else ""
    return f"{table.title}\n\n{grid}\n{note}"


def escape_markdown(text: str) -> str:
    """Text that stays text in Markdown and in the HTML made from it."""
    for special, harmless in (("\\", "\\\\"), ("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("](", "]\\(")):
        text = text.replace(special, harmless)
    return "".join(f"\\{c}" if c in "|*`" else c for c in text)


def to_markdown(table: Table) -> str:
    """A GitHub table with the notes below."""
    columns = table.shown("md")

    def show(cell: TableCell) -> str:
        text = escape_markdown(cell_text(cell))
        return {"best": f"**{text}**", "second": f"<u>{text}</u>"}.get(cell.mark, text)

    rows = [[show(row.cells.get(column.key, TableCell())) for column in columns] for row in table.rows]
    lines = [f"# {escape_markdown(table.title)}", "", "| " + " | ".join(c.title for c in columns) + " |"]
    lines.append("|" + "|".join("---" if c.key in LEFT else "--:" for c in columns) + "|")
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([*lines, "", *(f"- {escape_markdown(note)}" for note in table.notes), ""])


def to_csv(table: Table) -> str:
    """Numbers at full precision; a column with seeds has its interval, n and test-set error beside it."""
    columns, header = table.shown("csv"), []
    parts = {column.key: csv_suffixes(table, column) for column in columns}
    for column in columns:
        header += [column.key + suffix for suffix in parts[column.key]]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    for row in table.rows:
        cells = {column.key: row.cells.get(column.key, TableCell()) for column in columns}
        writer.writerow([csv_value(cells[c.key], suffix) for c in columns for suffix in parts[c.key]])
    return out.getvalue()


def csv_suffixes(table: Table, column: Column) -> list[str]:
    """Suffixes of the CSV columns that a column becomes: only those that some line fills."""
    cells = [row.cells[column.key] for row in table.rows if column.key in row.cells]
    fields = {
        "_ci95_low": "low", "_ci95_high": "high", "_n": "n", "_test_se": "test_error", "_recomputed": "recomputed",
    }  # fmt: skip
    return ["", *(suffix for suffix, name in fields.items() if any(getattr(cell, name) is not None for cell in cells))]


def csv_value(cell: TableCell, suffix: str) -> str:
    """One field; empty where nothing ran."""
    value = {
        "": cell.value, "_ci95_low": cell.low, "_ci95_high": cell.high, "_n": cell.n, "_test_se": cell.test_error,
        "_recomputed": cell.recomputed,
    }[suffix]  # fmt: skip
    if suffix == "" and value is None:
        return cell.text
    return "" if value is None else f"{value:.6g}"


def escape_tex(text: str) -> str:
    """Text that stays text in LaTeX; what is not ASCII and has no form there becomes a question mark."""
    return "".join(TEX_SPECIAL.get(c, c if c.isascii() and c.isprintable() else "?") for c in text)


def latex_cell(cell: TableCell) -> str:
    """A cell in LaTeX: the interval small beside the mean, n as a small exponent."""
    if cell.empty or cell.value is None or cell.bracket:
        return escape_tex(cell_text(cell))
    value = escape_tex(value_text(cell))
    value = {"best": rf"\textbf{{{value}}}", "second": rf"\underline{{{value}}}"}.get(cell.mark, value)
    if cell.recomputed is not None:
        value += rf"\,{{[}}!{cell.recomputed:.2f}{{]}}"
    if cell.low is not None and cell.high is not None:
        value += rf"{{\tiny$\,\pm${(cell.high - cell.low) / 2:.{cell.digits}f}}}"
    if cell.n is not None:
        value += rf"{{\tiny\,({cell.n})}}"
    return value + (rf"{{\tiny\ {escape_tex(cell.text)}}}" if cell.text else "")


def to_latex(table: Table) -> str:
    """A table* (longtable where it fills pages) for \\input, with booktabs; its first line is the preamble it needs."""
    columns = table.shown("tex")
    layout = "".join("l" if column.key in LEFT else "r" for column in columns)
    titles = [escape_tex(column.title) for column in columns]
    if len(columns) > TURNED:
        titles = [t if c.key in LEFT else rf"\rotatebox{{90}}{{{t}}}" for c, t in zip(columns, titles, strict=True)]
    header = [*group_header(columns), " & ".join(titles) + r" \\", r"\midrule"]
    body = [" & ".join(latex_cell(row.cells.get(c.key, TableCell())) for c in columns) + r" \\" for row in table.rows]
    caption = escape_tex(table.title.split(": ", 1)[-1])
    caption = rf"\caption{{{caption[:1].upper()}{caption[1:]}}}\label{{tab:{table.name}}}"
    frame = long_frame if len(body) > PAGE else float_frame
    notes = [escape_tex(note) + r"\par" for note in table.notes]
    preamble = r"% \usepackage[T1]{fontenc}\usepackage{booktabs,graphicx,longtable}"
    return "\n".join([preamble, *frame(caption, layout, header, body, notes), ""])


def float_frame(caption: str, layout: str, header: list[str], body: list[str], notes: list[str]) -> list[str]:
    """A float as wide as the page; only a table with many columns is scaled to fit."""
    wide = len(layout) > 9
    return [
        r"\begin{table*}[t]", r"\centering\small", caption, *([r"\resizebox{\textwidth}{!}{%"] if wide else []),
        rf"\begin{{tabular}}{{@{{}}{layout}@{{}}}}", r"\toprule", *header, *body, r"\bottomrule",
        r"\end{tabular}" + ("}" if wide else ""), r"\par\smallskip\raggedright\footnotesize", *notes, r"\end{table*}",
    ]  # fmt: skip


def long_frame(caption: str, layout: str, header: list[str], body: list[str], notes: list[str]) -> list[str]:
    """A table that runs over pages, with its header repeated."""
    return [
        r"{\scriptsize", rf"\begin{{longtable}}{{@{{}}{layout}@{{}}}}", caption + r" \\", r"\toprule", *header,
        r"\endfirsthead", r"\toprule", *header, r"\endhead", *body, r"\bottomrule", r"\end{longtable}", *notes, "}",
    ]  # fmt: skip


def group_header(columns: list[Column]) -> list[str]:
    """The line of group names above the tasks, with its rules; nothing where no column has a group."""
    if not any(column.group for column in columns):
        return []
    cells, rules, position = [], [], 1
    while position <= len(columns):
        group = columns[position - 1].group
        width = 1
        while group and position - 1 + width < len(columns) and columns[position - 1 + width].group == group:
            width += 1
        if group:
            cells.append(rf"\multicolumn{{{width}}}{{c}}{{{escape_tex(group)}}}")
            rules.append(rf"\cmidrule(lr){{{position}-{position + width - 1}}}")
        else:
            cells.append("")
        position += width
    return [" & ".join(cells) + r" \\", "".join(rules)]
