"""A table in each of its forms: terminal, Markdown, CSV, LaTeX. Every text from outside is escaped for its form."""

import csv
import io

from tabulate import tabulate

from karst_bench.report.table_model import Column, Table, TableCell

DASH = "—"
LEFT = ("method", "source", "first", "second", "set")
TURNED, PAGE = 14, 45  # columns beyond which headings are turned; lines beyond which a LaTeX table runs over pages
TEX_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "±": r"$\pm$", "—": "---", "[": "{[}", "]": "{]}",
}  # fmt: skip


def digits(box: TableCell) -> str:
    """The number of a box alone."""
    if box.value is not None and box.value < box.floor:
        return f"<{box.floor:g}"
    return f"{box.value:.{box.digits}f}"


def plain(box: TableCell) -> str:
    """A box as text: 76.8 ±0.4 (3); a misprint as 77.9 [!77.41]; an interval as [76.4, 77.2]."""
    if box.empty:
        return DASH
    if box.value is None:
        return box.text
    if box.bracket:
        return f"[{box.low:.{box.digits}f}, {box.high:.{box.digits}f}]"
    parts = [digits(box)]
    if box.recomputed is not None:
        parts.append(f"[!{box.recomputed:.2f}]")
    if box.low is not None and box.high is not None:
        parts.append(f"±{(box.high - box.low) / 2:.{box.digits}f}")
    if box.n is not None:
        parts.append(f"({box.n})")
    return " ".join([*parts, box.text] if box.text else parts)


def terminal(table: Table, colour: bool = False) -> str:
    """For a terminal: the narrow columns; best bold and second underlined where it shows colour."""
    columns = table.shown("terminal")
    codes = {"best": "\033[1m", "second": "\033[4m"}

    def show(box: TableCell) -> str:
        text = plain(box)
        return f"{codes[box.mark]}{text}\033[0m" if colour and box.mark else text

    body = [[show(line.boxes.get(column.key, TableCell())) for column in columns] for line in table.lines]
    grid = tabulate(body, headers=[c.title for c in columns], tablefmt="simple", disable_numparse=True)
    return f"{table.title}\n\n{grid}\n"


def escape_markdown(text: str) -> str:
    """Text that stays text in Markdown and in the HTML made from it."""
    for special, harmless in (("\\", "\\\\"), ("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("](", "]\\(")):
        text = text.replace(special, harmless)
    return "".join(f"\\{c}" if c in "|*`" else c for c in text)


def markdown(table: Table) -> str:
    """A GitHub table with the notes below."""
    columns = table.shown("md")

    def show(box: TableCell) -> str:
        text = escape_markdown(plain(box))
        return {"best": f"**{text}**", "second": f"<u>{text}</u>"}.get(box.mark, text)

    rows = [[show(line.boxes.get(column.key, TableCell())) for column in columns] for line in table.lines]
    lines = [f"# {escape_markdown(table.title)}", "", "| " + " | ".join(c.title for c in columns) + " |"]
    lines.append("|" + "|".join("---" if c.key in LEFT else "--:" for c in columns) + "|")
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([*lines, "", *(f"- {escape_markdown(note)}" for note in table.notes), ""])


def comma_separated(table: Table) -> str:
    """Numbers at full precision; a column with seeds has its interval, n and test-set error beside it."""
    columns, header = table.shown("csv"), []
    parts = {column.key: csv_parts(table, column) for column in columns}
    for column in columns:
        header += [column.key + suffix for suffix in parts[column.key]]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    for line in table.lines:
        boxes = {column.key: line.boxes.get(column.key, TableCell()) for column in columns}
        writer.writerow([csv_value(boxes[c.key], suffix) for c in columns for suffix in parts[c.key]])
    return out.getvalue()


def csv_parts(table: Table, column: Column) -> list[str]:
    """Suffixes of the CSV columns that a column becomes: only those that some line fills."""
    boxes = [line.boxes[column.key] for line in table.lines if column.key in line.boxes]
    fields = {
        "_ci95_low": "low", "_ci95_high": "high", "_n": "n", "_test_se": "test_error", "_recomputed": "recomputed",
    }  # fmt: skip
    return ["", *(suffix for suffix, name in fields.items() if any(getattr(box, name) is not None for box in boxes))]


def csv_value(box: TableCell, suffix: str) -> str:
    """One field; empty where nothing ran."""
    value = {
        "": box.value, "_ci95_low": box.low, "_ci95_high": box.high, "_n": box.n, "_test_se": box.test_error,
        "_recomputed": box.recomputed,
    }[suffix]  # fmt: skip
    if suffix == "" and value is None:
        return box.text
    return "" if value is None else f"{value:.6g}"


def escape_tex(text: str) -> str:
    """Text that stays text in LaTeX; what is not ASCII and has no form there becomes a question mark."""
    return "".join(TEX_SPECIAL.get(c, c if c.isascii() and c.isprintable() else "?") for c in text)


def tex_box(box: TableCell) -> str:
    """A box in LaTeX: the interval small beside the mean, n as a small exponent."""
    if box.empty or box.value is None or box.bracket:
        return escape_tex(plain(box))
    value = escape_tex(digits(box))
    value = {"best": rf"\textbf{{{value}}}", "second": rf"\underline{{{value}}}"}.get(box.mark, value)
    if box.recomputed is not None:
        value += rf"\,{{[}}!{box.recomputed:.2f}{{]}}"
    if box.low is not None and box.high is not None:
        value += rf"{{\tiny$\,\pm${(box.high - box.low) / 2:.{box.digits}f}}}"
    if box.n is not None:
        value += rf"{{\tiny\,({box.n})}}"
    return value + (rf"{{\tiny\ {escape_tex(box.text)}}}" if box.text else "")


def latex(table: Table) -> str:
    """A table* (longtable where it fills pages) for \\input, with booktabs; its first line is the preamble it needs."""
    columns = table.shown("tex")
    layout = "".join("l" if column.key in LEFT else "r" for column in columns)
    titles = [escape_tex(column.title) for column in columns]
    if len(columns) > TURNED:
        titles = [t if c.key in LEFT else rf"\rotatebox{{90}}{{{t}}}" for c, t in zip(columns, titles, strict=True)]
    header = [*spanning(columns), " & ".join(titles) + r" \\", r"\midrule"]
    body = [" & ".join(tex_box(line.boxes.get(c.key, TableCell())) for c in columns) + r" \\" for line in table.lines]
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


def spanning(columns: list[Column]) -> list[str]:
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
