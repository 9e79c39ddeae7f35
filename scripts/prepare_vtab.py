"""python scripts/prepare_vtab.py root=DIR [task=cifar100,dtd] [images=false]

Says which of the 19 VTAB-1K sets are under DIR (paths.data), where each is expected, and what is wrong with those that
are there (the audit of scripts/audit_data.py). A set is a folder DIR/vtab-1k/<name>/ with images/<split>/NNNNNN.jpg and
the lists train800.txt, val200.txt, train800val200.txt and test.txt, as the NOAH, SSF and FacT repositories distribute
them; their usual other names are accepted. Sets prepared by tensorflow-datasets in array_record files are read as they
are: dataset.source=tfds paths.data=TFDS_DIR. Building the folders from the original archives is not part of this
version. Exit code 0 where all chosen sets are there and sound, else 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from karst_bench.cli.options import main
from karst_bench.config.datasets import choose
from karst_bench.data.setup.audit import audit_task
from karst_bench.data.sources.layouts import find_task
from karst_bench.errors import UserError


def run(options: Mapping[str, str]) -> int:
    """Report on each set. Returns the exit code."""
    if "root" not in options:
        raise UserError("root=DIR is missing: the folder that paths.data points to")
    images = options.get("images", "true") != "false"
    nodes = choose(options.get("task"), ("vtab",))
    sound = [report(node, Path(options["root"]), images) for node in nodes.values()]
    print(f"{sum(sound)} of {len(sound)} sets are ready")
    return 0 if all(sound) else 1


def report(node: Mapping[str, Any], root: Path, images: bool) -> bool:
    """One set: found, where it belongs, or what is wrong with it."""
    try:
        home = find_task(node, data_root=root)
    except UserError:
        names = " or ".join(dict.fromkeys([node["folder"], *node["aliases"]]))
        print(f"{node['name']}: not found; expected {root / 'vtab-1k' / node['folder']} (names: {names})")
        print(f"    origin: {node['origin']}; licence: {node['licence']}; note: {node['known_issues']}")
        print(f"    with tensorflow-datasets: dataset.source=tfds, builder {node['tfds']['builder']}")
        return False
    found = audit_task(node, root=root, home=home, images=images)
    state = "ready" if found.sound else "NOT usable"
    print(f"{node['name']}: {home}: {state}, {found.files} images {found.encoding}, lists {found.list_sha256[:12]}")
    for line in [*found.unreadable[:3], *found.out_of_range[:3], *found.overlap[:3], *found.warnings]:
        print(f"    {line}")
    return found.sound


if __name__ == "__main__":
    raise SystemExit(main(run, __doc__ or "", ("root", "task", "images")))
