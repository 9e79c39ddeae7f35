"""python scripts/prepare_fewshot.py ... is `karst-bench data fewshot ...`; --help says what it takes."""

from karst_bench.cli.app import door

if __name__ == "__main__":
    door("data", "fewshot")
