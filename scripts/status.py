"""How far a sweep is: python scripts/status.py suite=mini [sweep=table1] [overrides]   (make status SUITE=mini)."""

import sys

from karst_bench.errors import UserError
from karst_bench.run.status import cells, matrix


def main(overrides: list[str]) -> int:
    """Print the matrix of a sweep (Table I's where none is named); exit code 2 for a sweep that does not exist."""
    wanted = (
        overrides
        if any(o.startswith(("sweep=", "method=", "dataset=")) for o in overrides)
        else ["sweep=table1", *overrides]
    )
    try:
        print(matrix(wanted, cells(wanted)))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main([argument for argument in sys.argv[1:] if not argument.startswith("-")]))
