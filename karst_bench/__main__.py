"""`python -m karst_bench` is `karst-bench`."""

from karst_bench.cli.app import door

if __name__ == "__main__":
    door()
