"""docs/results-mini.md from the committed records: python scripts/docs_results_mini.py

What the numbers of the embedded suite say and do not say. Every figure is computed here from records; nothing is typed.
"""

import textwrap
from collections.abc import Callable
from pathlib import Path

from karst_bench import files
from karst_bench.cli.app import generator
from scripts.results_mini.accuracy import averages, by_task, peeking, verdicts
from scripts.results_mini.evidence import Evidence, evidence
from scripts.results_mini.others import few_shot, kernels, rescaling, swin
from scripts.results_mini.runs import missing, search, trust, what_ran

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "results-mini.md"
RESULTS = ROOT / "results" / "reference" / "mini"

SECTIONS: tuple[tuple[str, str, Callable[[Evidence], str]], ...] = (
    ("What ran, where, for how long", "", what_ran),
    ("What is missing", "", missing),
    ("The search of learning rates", "", search),
    (
        "Averages",
        "Test top-1 (%) after the last epoch, mean ± half of the 95 % interval over seeds (number of seeds).",
        averages,
    ),
    ("Where KARST wins, ties and loses", "", verdicts),
    ("Task by task", "With searched learning rates.", by_task),
    ("What peeking is worth here", "", peeking),
    ("Few-shot", "", few_shot),
    ("Kernels, m and r", "", kernels),
    ("On Swin (Table II)", "", swin),
    ("Re-scaling (Table III)", "", rescaling),
    ("How far to trust it", "", trust),
)
HEAD = """# What the embedded suite's numbers say

Written by `python scripts/docs_results_mini.py` from the records of results/reference/mini; no figure is typed. The same numbers
with their records, curves and provenance: results/report/mini/index.html (`make report SUITE=mini`; opens from disk).

**This is not VTAB.** Nine tasks of 32 x 32 pixels drawn by this package, two small backbones of its own. What a method gains here
says how the code behaves and what such small backbones like; it is no evidence for ViT-B/16 on VTAB-1K, and no number of the
paper belongs beside these. Intervals range over seeds on these very tasks. [statistics.md](statistics.md) says how each
interval and test is made and how often it holds."""


def render(seen: Evidence) -> str:
    """The whole page."""
    parts = [HEAD]
    for title, about, write in SECTIONS:
        parts += [f"## {title}", *([about] if about else []), write(seen) if seen.runs else "No runs yet."]
    blocks = "\n\n".join(parts).split("\n\n")
    return "\n\n".join(map(wrapped, blocks)).rstrip("\n") + "\n"


def wrapped(block: str) -> str:
    """A paragraph or a list broken at 125 columns; tables and headings stay whole."""
    if block.startswith(("|", "#")):
        return block
    items = block.split("\n") if block.startswith("- ") else [" ".join(block.split("\n"))]
    return "\n".join(
        textwrap.fill(item, 125, subsequent_indent="  " if item.startswith("- ") else "", break_long_words=False,
                      break_on_hyphens=False)
        for item in items
    )  # fmt: skip


def main() -> None:
    """Write docs/results-mini.md anew from the committed records."""
    seen = evidence(RESULTS)
    files.write(PAGE, render(seen).encode(), once=False)
    print(f"{PAGE.relative_to(ROOT)}: {len(seen.runs)} records")


if __name__ == "__main__":
    generator(main)
