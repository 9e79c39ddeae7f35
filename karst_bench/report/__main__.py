"""`python -m karst_bench.report suite=vtab|mini results=results [pictures=false]`: as `karst-bench report`."""

import sys
from pathlib import Path

from karst_bench.errors import UserError
from karst_bench.report.report import terminal_text, write_report

DEFAULTS = {"suite": "vtab", "results": "results", "pictures": "true"}


def main(arguments: list[str]) -> int:
    """Exit code 0 also where nothing ran; 2 with one paragraph for a wrong option or an unwritable folder."""
    words = [argument.partition("=") for argument in arguments]
    wrong = [
        argument
        for argument, (key, equals, _) in zip(arguments, words, strict=True)
        if not equals or key not in DEFAULTS
    ]
    if wrong:
        print(f"{wrong[0]!r} is no option; use {', '.join(f'{key}=...' for key in DEFAULTS)}", file=sys.stderr)
        return 2
    chosen = DEFAULTS | {key: value for key, _, value in words}
    suite, results = chosen["suite"], Path(chosen["results"])
    try:
        report = write_report(
            suite, results / "runs" / suite, results / "report" / suite, chosen["pictures"] != "false"
        )
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(terminal_text(report, sys.stdout.isatty()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
