"""python scripts/status.py ... is `karst-bench status ...`; --help says what it takes."""

from karst_bench.cli.app import door

if __name__ == "__main__":
    door("status")
