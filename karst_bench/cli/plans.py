"""What a sweep consists of and how far it is: the words of `karst-bench sweep` and `status`."""

from collections.abc import Sequence
from pathlib import Path

from karst_bench.config.sweep_files import read_sweep, sweep_names
from karst_bench.errors import UserError
from karst_bench.run import status

MOST_WORKERS = 100_000
NAMING = ("sweep=", "method=", "dataset=")


def listing(words: Sequence[str]) -> str:
    """A line for each run of the sweep with its state; without words, the sweeps there are.

    Raises: UserError as composing the runs does.
    """
    if not words:
        lines = [f"{name:12}{read_sweep(name, 'vtab').title}" for name in sweep_names()]
        return "\n".join(
            [*lines, "", "karst-bench sweep NAME [suite=mini] lists the runs; karst-bench run sweep=NAME runs them"]
        )
    planned, workers = for_workers([word for word in _named(words) if word.lower() != "dry_run=true"])
    return status.listing(status.sweep_cells(planned), workers)


def for_workers(words: Sequence[str]) -> tuple[list[str], int]:
    """(the other words, N) where one is workers=N: so many runs go at once. Raises: UserError where N is no such number."""
    given = [word.partition("=")[2] for word in words if word.startswith("workers=")]
    if given and not (given[-1].isdecimal() and 1 <= int(given[-1]) <= MOST_WORKERS):
        raise UserError(f"workers={given[-1]} must be a whole number from 1 to {MOST_WORKERS}: how many runs go at once")
    return [word for word in words if not word.startswith("workers=")], int(given[-1]) if given else 1


def matrix(words: Sequence[str], results: Path | None = None, records: str = "own") -> str:
    """Methods x tasks of the sweep that the words name, of Table I where they name none, by the records of a report.

    Raises: UserError.
    """
    wanted = _named(words)
    if not any(word.startswith(NAMING) for word in wanted):
        wanted = ["sweep=table1", *wanted]
    wanted += [f"paths.results={results}"] if results else []
    planned = status.sweep_cells(wanted, records)
    where = sorted({str(cell.config["paths"]["results"]) for cell in planned})
    return f"{status.matrix(wanted, planned)}\nBy the records ({records}) of {', '.join(where)}."


def _named(words: Sequence[str]) -> list[str]:
    """`table1` stands for sweep=table1."""
    return [f"sweep={word}" if word in sweep_names() else word for word in words]
