"""The table of docs/gpu.md from benchmarks/results/memory.json: python scripts/docs_gpu.py"""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from tabulate import tabulate

from karst_bench import files
from karst_bench.cli.app import generator

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "gpu.md"
COUNTED = ROOT / "benchmarks" / "results" / "memory.json"
MARKS = re.compile(r"(<!-- memory -->\n).*?(<!-- /memory -->)", re.DOTALL)


def with_table(page: str, rows: Mapping[str, Mapping[str, float]]) -> str:
    """The page with one line a row and two columns a case, the text around the table as it is."""
    cases = list(dict.fromkeys(name.partition(": ")[0] for name in rows))
    names = dict.fromkeys(name.partition(": ")[2] for name in rows)
    lines = [[name, *(_cell(rows[f"{case}: {name}"]) for case in cases)] for name in names]
    heads = ["kept / floor's, in all", *cases]
    table = tabulate(lines, heads, tablefmt="pipe", colalign=["left", *["right"] * len(cases)], disable_numparse=True)
    return MARKS.sub(lambda found: f"{found[1]}{table}\n{found[2]}", page)


def _cell(row: Mapping[str, float]) -> str:
    return f"{row['kept_ratio']:.2f}, {row['total_bytes'] / 1e9:.1f} GB"


def main() -> None:
    """Writes the page."""
    rows = json.loads(COUNTED.read_text())["rows"]
    files.write(PAGE, with_table(PAGE.read_text(), rows).encode(), once=False)
    print(PAGE)


if __name__ == "__main__":
    generator(main)
