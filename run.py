"""The command line: python run.py method=karst dataset=vtab/cifar100 (python run.py --help lists every option)."""

import sys

from karst_bench.cli.hydra_app import main
from karst_bench.cli.outcome import leave

if __name__ == "__main__":
    leave(main(sys.argv[1:]))
