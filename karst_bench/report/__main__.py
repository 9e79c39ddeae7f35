"""Command line: `python -m karst_bench.report suite=vtab|mini results=results [paper=DIR] [pictures=false]`."""

import sys
from pathlib import Path

from karst_bench.errors import UserError
from karst_bench.report import formats
from karst_bench.report.report import Report, write_report

KEYS = {"suite": "vtab", "results": "results", "paper": "", "pictures": "true"}
IN_TERMINAL = ("table1", "table2", "table3")


def options(arguments: list[str]) -> dict[str, str]:
    """key=value words over the defaults. Raises: UserError for anything else."""
    chosen = dict(KEYS)
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or key not in KEYS:
            raise UserError(f"{argument!r} is no option; use {', '.join(f'{k}=...' for k in KEYS)}")
        chosen[key] = value
    return chosen


def show(report: Report, colour: bool) -> str:
    """What the terminal shows: the tables, what is missing, what was left out, where the files lie."""
    parts = [formats.to_terminal(table, colour) for table in report.tables if table.name in IN_TERMINAL]
    missing = {name: sum(len(gap.datasets) for gap in gaps) for name, gaps in report.gaps.items()}
    lines = [f"{report.runs} finished runs of suite {report.suite}; {len(report.left_out)} files left out."]
    lines += [f"  left out: {line}" for line in report.left_out]
    lines += report.notes
    lines.append("Missing cells: " + ", ".join(f"{name} {number}" for name, number in missing.items()) + ".")
    first = next((gap for gaps in report.gaps.values() for gap in gaps), None)
    if first is not None:
        lines.append(f"  for example: {first.command(first.datasets[0])}")
        lines.append(f"  all of them: {report.folder / 'missing.md'}, one line per cell in missing.csv")
    lines.append(f"Written: {report.folder / 'index.html'} and beside it .md .csv .tex .svg .pdf .png")
    return "\n".join([*parts, *lines])


def main(arguments: list[str]) -> int:
    """Exit code 0 also where nothing ran; 2 with one paragraph for a wrong option or an unwritable folder."""
    try:
        chosen = options(arguments)
        paper = Path(chosen["paper"]) if chosen["paper"] else None
        report = write_report(chosen["suite"], Path(chosen["results"]), paper, chosen["pictures"] != "false")
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(show(report, sys.stdout.isatty()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
