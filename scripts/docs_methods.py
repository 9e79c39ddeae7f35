"""docs/methods.md from the code: python scripts/docs_methods.py"""

from pathlib import Path

from karst_bench import files
from karst_bench.cli.app import generator

PAGE = Path(__file__).resolve().parents[1] / "docs" / "methods.md"


def main() -> None:
    """Write docs/methods.md from the code; every number is counted."""
    from scripts.pages.methods import render  # torch, which --help does without

    files.write(PAGE, render().encode(), once=False)
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    generator(main)
