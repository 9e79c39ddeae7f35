"""`karst-bench data ...`: what the audit found and what preparing left to do, as text or JSON."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from karst_bench.cli.data_sources import chosen_sets
from karst_bench.config.datasets import choose
from karst_bench.data.builders.publish import keep_audit
from karst_bench.data.setup import audit as auditing
from karst_bench.data.setup.fewshot import missing_images, place_lists, unpack


def audit(root: Path, tasks: str | None, *, images: bool, as_json: bool) -> int:
    """Audits the chosen sets under `root` and prints; 0 where all are sound, else 1. Raises: UserError where there is none.

    Where every image was opened, its time is kept beside the lists, for `data status`. tasks=folder: a set of one's own.
    """
    if tasks == "folder":
        own = auditing.audit_own(own_dataset(root, []), images=images)
        found = {own.option: own}
    else:
        found = auditing.audit(root, chosen_sets(tasks), images=images)
    if images and tasks != "folder":
        for finding in found.values():
            keep_audit(finding)
    if as_json:
        print(json.dumps({option: finding.as_json() for option, finding in found.items()}, indent=1))
    else:
        _print_table(list(found.values()))
    return 0 if all(finding.sound for finding in found.values()) else 1


def _print_table(findings: list[auditing.Finding]) -> None:
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


def own_dataset(root: Path, words: list[str]) -> Mapping[str, Any]:
    """The configuration of a set of one's own. Raises: UserError."""
    from karst_bench.config.compose import settings_of

    return settings_of(["dataset=folder", f"dataset.root={root}", *words]).dataset


def own_lists(root: Path, to: Path | None, words: list[str]) -> int:
    """Writes the lists of a set of one's own and prints how long each is. Raises: UserError."""
    from karst_bench.data.sources.own import write_lists_of

    dataset = own_dataset(root, words)
    to = to or (root if root.is_dir() else root.parent)
    for name, count in write_lists_of(dataset, to).items():
        print(f"{to / name}: {count} lines")
    print(f"karst-bench run dataset=folder dataset.root={to} reads them, where the pictures lie beside them")
    return 0


def prepare_fewshot(root: Path, tasks: str | None, *, archives: Path, lists: str | None) -> int:
    """Brings each few-shot set into place as far as it can; 0 where all images are there, else 1. Raises: UserError."""
    missing = [_fewshot_set(dataset, root, archives, lists) for dataset in choose(tasks, ("fewshot",)).values()]
    return 1 if sum(missing) else 0


def _fewshot_set(dataset: Mapping[str, Any], root: Path, archives: Path, lists: str | None) -> int:
    """Lists, then images; the number of images that are still missing."""
    place_lists(dataset, root, lists)
    missing = missing_images(dataset, root)
    absent: list[str] = []
    if missing:
        absent = unpack(dataset, root, archives)
        missing = missing_images(dataset, root)
    if not missing:
        print(f"{dataset['name']}: complete; karst-bench run dataset={dataset['name']} paths.data={root}")
        return 0
    places = ", ".join(str(root / folder) for folder in dataset["image_dirs"])
    wanted = f"; not found: {', '.join(str(archives / name) for name in absent)}" if absent else ""
    count = f"{len(missing)} images are missing, first {missing[0]}"
    print(f"{dataset['name']}: {count} (put them into one of {places}){wanted}")
    return len(missing)
