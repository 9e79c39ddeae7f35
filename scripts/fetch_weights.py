"""python scripts/fetch_weights.py ... is `karst-bench weights fetch ...`; --help says what it takes."""

from karst_bench.cli.app import door

if __name__ == "__main__":
    door("weights", "fetch")
