"""python scripts/audit_data.py ... is `karst-bench data audit ...`; --help says what it takes."""

from karst_bench.cli.app import door

if __name__ == "__main__":
    door("data", "audit")
