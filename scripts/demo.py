"""python scripts/demo.py ... is `karst-bench demo ...`; --help says what it takes."""

from karst_bench.cli.app import door

if __name__ == "__main__":
    door("demo")
