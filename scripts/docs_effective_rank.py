"""Writes docs/effective_rank.csv and .svg: the effective rank of every weight change after one run on an embedded task.

python scripts/docs_effective_rank.py        about three minutes on one core; finished runs below outputs/effective_rank are read
"""

import csv
import io
from pathlib import Path

from karst_bench import files
from karst_bench.cli.app import generator
from karst_bench.config.compose import settings_of
from karst_bench.records.record import RunRecord

DOCS = Path(__file__).resolve().parent.parent / "docs"
METHODS = ("karst", "lora", "fact_tt")
COLUMNS = ("method", "layer", "effective_rank", "largest_rank", "relative_norm", "record", "test_top1_pct")


def diagnosed_runs(results: Path) -> dict[str, RunRecord]:
    """The record of each method on mini/digits with vit_mini, everything else as the suite has it."""
    from karst_bench.run.pipeline import run  # torch, which --help does without

    words = ["dataset=mini/digits", "diagnostics=true", "save_adapter=false", "threads=1", f"paths.results={results}"]
    return {method: run(settings_of([f"method={method}", *words])) for method in METHODS}


def rank_table(records: dict[str, RunRecord]) -> str:
    """CSV, a line for each layer of each method."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for method, record in records.items():
        assert record.diagnostics is not None
        for update in record.diagnostics.updates:
            ranks = f"{update.effective_rank:.3f}", update.largest_rank, f"{update.relative_norm:.4f}"
            writer.writerow([method, update.path, *ranks, record.id, f"{record.metrics.test_top1_last_pct:.2f}"])
    return buffer.getvalue()


def write_effective_ranks(results: Path = Path("outputs/effective_rank")) -> None:
    """Trains what is not trained yet and writes both files."""
    import matplotlib as mpl  # --help does without

    from karst_bench.report.diagnostic_figures import draw_effective_ranks
    from karst_bench.report.style import FIGURE_FILES, RC

    records = diagnosed_runs(results)
    files.write(DOCS / "effective_rank.csv", rank_table(records).encode())
    with mpl.rc_context(RC):
        figure = draw_effective_ranks({m: r.diagnostics.updates for m, r in records.items() if r.diagnostics})
        figure.savefig(DOCS / "effective_rank.svg", metadata=FIGURE_FILES["svg"], bbox_inches="tight", pad_inches=0.03)


if __name__ == "__main__":
    generator(write_effective_ranks)
