"""docs/data_sources.md from the readers of the archives: python scripts/docs_data_sources.py [out=FILE]"""

from pathlib import Path

from karst_bench import files
from karst_bench.cli.app import generator

PAGE = Path(__file__).resolve().parents[1] / "docs" / "data_sources.md"


def main(out: Path = PAGE) -> None:
    """Write docs/data_sources.md from the readers in karst_bench/data/builders."""
    from scripts.pages.data_sources import page  # torch, which --help does without

    files.write(out, page().encode())
    print(out)


if __name__ == "__main__":
    generator(main)
