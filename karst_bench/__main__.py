"""`python -m karst_bench` is `karst-bench`."""

import sys

from karst_bench.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
