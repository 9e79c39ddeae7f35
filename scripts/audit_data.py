"""python scripts/audit_data.py root=DIR [task=cifar100,fewshot/pets] [images=false] [--json]

Looks at every set under DIR (the folder of paths.data): each line of each list, and each image once. Prints a table:
files, classes seen, label range, repeated rows, images shared by splits, unreadable images, encoding (with the JPEG
quality), and the hash of the lists. With --json: {task: {"unreadable": [paths], "out_of_range": [lines], "overlap":
[paths], "warnings": [...]}} on stdout. images=false reads the lists only. Exit code 1 where one of the first three is
not empty, 2 where DIR holds no set, else 0. Nothing is changed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from karst_bench.cli.options import main
from karst_bench.config.datasets import choose
from karst_bench.data.setup.audit import Finding, audit
from karst_bench.errors import UserError


def run(options: Mapping[str, str]) -> int:
    """Audit and print. Returns the exit code."""
    if "root" not in options:
        raise UserError("root=DIR is missing: the folder that holds vtab-1k/ or few-shot/ (paths.data)")
    images = options.get("images", "true") != "false"
    nodes = choose(options.get("task"))
    found = audit(Path(options["root"]), nodes, images=images)
    if "json" in options:
        print(json.dumps({option: finding.as_json() for option, finding in found.items()}, indent=1))
    else:
        print_table(list(found.values()))
    return 0 if all(finding.sound for finding in found.values()) else 1


def print_table(findings: list[Finding]) -> None:
    """The table, then what is wrong or odd, set by set."""
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    counted = ("repeated", "shared", "unreadable", "bad lines")
    table = Table("set", "files", "classes", "labels", *counted, "encoding", "lists")
    for found in findings:
        span = f"{found.label_range[0]}..{found.label_range[1]}" if found.label_range else "none"
        counts = [found.duplicates, len(found.overlap), len(found.unreadable), len(found.out_of_range)]
        lists = f"{found.list_sha256[:12]} {found.list_state}"
        seen = f"{found.classes_seen}/{found.classes}"
        table.add_row(found.option, str(found.files), seen, span, *map(str, counts), found.encoding, lists)
    console.print(table)
    for found in findings:
        for title, lines in found.as_json().items():
            for line in lines[:5]:
                console.print(f"{found.option}: {title.replace('_', ' ')}: {line}", markup=False)
            if len(lines) > 5:
                console.print(f"{found.option}: {title.replace('_', ' ')}: and {len(lines) - 5} more (--json has all)")


if __name__ == "__main__":
    raise SystemExit(main(run, __doc__ or "", ("root", "task", "images"), ("json",)))
