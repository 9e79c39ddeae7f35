"""python scripts/tune.py ... is `karst-bench tune ...`; --help says what it takes."""

from karst_bench.cli.app import door

if __name__ == "__main__":
    door("tune")
