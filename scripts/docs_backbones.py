"""docs/backbones.md from the code: python scripts/docs_backbones.py"""

from pathlib import Path

from karst_bench import files
from karst_bench.cli.app import generator

PAGE = Path(__file__).resolve().parents[1] / "docs" / "backbones.md"


def main() -> None:
    """Write docs/backbones.md: what attaches to which of timm's models, and why not."""
    from scripts.pages.backbones import render  # torch, which --help does without

    files.write(PAGE, render().encode(), once=False)
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    generator(main)
