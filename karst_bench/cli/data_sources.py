"""`karst-bench data prepare` and `data status`: sets brought into place from archives, zips and tensorflow-datasets."""

import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from karst_bench.config.datasets import choose, dataset_config, dataset_members
from karst_bench.data import builders


def chosen_sets(tasks: str | None, default: tuple[str, ...] = ("vtab",)) -> dict[str, dict[str, Any]]:
    """{option: configuration} for tasks=all (the suites of `default`), cifar100,dtd, vtab/natural, fgvc/all, ...

    Raises: UserError for a name that is none of them.
    """
    if tasks in (None, "", "all"):
        return choose(None, default)
    found: dict[str, dict[str, Any]] = {}
    for name in str(tasks).split(","):
        members = dataset_members(name)
        several = members != [name]
        found |= {option: dataset_config(option) for option in members} if several else choose(name, ("vtab", "fgvc"))
    return found


def prepare_sets(
    root: Path,
    tasks: str | None = None,
    *,
    source: str = "raw",
    encoding: str = "png",
    archive: str | None = None,
    lists: Path | None = None,
    to: str | None = None,
    verify: bool = True,
) -> int:
    """Brings the chosen sets into place and prints one line for each; 0 where all are ready, else 1. Raises: UserError."""
    done = builders.prepare_data(chosen_sets(tasks), source, root, encoding, archive, to=to, lists=lists, verify=verify)
    for item in done:
        print(f"{item.option}: {item.text.removeprefix(item.option + ': ')}")
    ready = sum(item.ready for item in done)
    print(f"{ready} of {len(done)} sets are ready")
    return 0 if ready == len(done) else 1


def sets_status(root: Path, tasks: str | None = None) -> int:
    """Prints what is here of each set, from where, audited when; 0 where every chosen set is here, else 1."""
    lines = builders.status(chosen_sets(tasks, ("vtab", "fgvc")), root)
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    table = Table("set", "dataset.source", "from", "encoding", "audited", "folder")
    for line in lines:
        audited = (line.audited or "never") if line.source else ""
        table.add_row(line.option, line.source or "not here", line.origin, line.encoding, audited, line.home)
    console.print(table)
    for line in lines:
        if line.source and line.text:
            console.print(f"{line.option}: {line.text}", markup=False)
    absent = ",".join(line.option for line in lines if not line.source)
    if absent:
        console.print(
            f"to have the rest: karst-bench data prepare tasks={absent} root={root}", markup=False, soft_wrap=True
        )
    return 1 if absent else 0
