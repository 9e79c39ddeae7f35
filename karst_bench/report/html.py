"""index.html: every table and figure on one page that needs nothing but itself and the pictures beside it."""

from collections.abc import Mapping, Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined

from karst_bench.report import formats
from karst_bench.report.missing import Gap
from karst_bench.report.table_model import Table, TableCell

FOLDED = ("pairs", "paper_diff", "figure2", "figure3", "ablation")  # tables that a click opens
FIGURES = {
    "figure2": "Figure 2: few-shot accuracy over shots",
    "figure3": "Figure 3: accuracy and parameters over the kernels N",
    "ablation": "Ablation: accuracy against parameters over N, m and r",
    "pareto": "Accuracy against parameters, step time and memory; filled: our runs, hollow: the paper's numbers",
    "ranks": "Mean ranks over tasks with the critical difference",
}


def html_page(
    suite: str,
    runs: int,
    sources: Sequence[str],
    tables: Sequence[Table],
    gaps: Mapping[str, Sequence[Gap]],
    left_out: Sequence[str],
    notes: Sequence[str],
) -> str:
    """The page; Jinja escapes every value, so that no text of a record becomes markup."""
    environment = Environment(
        loader=PackageLoader("karst_bench.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.globals |= {"text": formats.cell_text, "TableCell": TableCell}
    opened = [table.name for table in tables if table.name not in FOLDED]
    return environment.get_template("index.html.j2").render(
        suite=suite, runs=runs, sources=sources, tables=tables, gaps=gaps, left_out=left_out, notes=notes, figures=FIGURES,
        open=opened,
    )  # fmt: skip
