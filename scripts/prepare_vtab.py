"""python scripts/prepare_vtab.py ... is `karst-bench data prepare ...`; --help says what it takes."""

from karst_bench.cli.app import door

if __name__ == "__main__":
    door("data", "prepare")
