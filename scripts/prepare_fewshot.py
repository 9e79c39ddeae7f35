"""python scripts/prepare_fewshot.py root=DIR [task=pets,cars] [archives=DIR] [lists=DIR_OR_URL]

Brings the five few-shot sets into place under DIR (paths.data). Fetches the 86 published split lists at one commit,
checked against SHA-256 sums kept in the code (lists= takes them from a folder or another address instead); finds the
images in any of the four usual layouts (NOAH, KARST/DTL, torchvision, CoOp), or unpacks the original archives found in
archives= (default: DIR): fgvc-aircraft-2013b.tar.gz, food-101.tar.gz, 102flowers.tgz, images.tar.gz (pets),
cars_train.tgz and cars_test.tgz. The images themselves are not fetched: each set has its own terms. Exit code 0 where
all images are there, else 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from karst_bench.cli.options import main
from karst_bench.config.datasets import choose
from karst_bench.data.setup.fewshot import missing_images, place_lists, unpack
from karst_bench.errors import UserError


def run(options: Mapping[str, str]) -> int:
    """Prepare each set. Returns the exit code."""
    if "root" not in options:
        raise UserError("root=DIR is missing: the folder that paths.data points to")
    root = Path(options["root"])
    archives = Path(options.get("archives", options["root"]))
    nodes = choose(options.get("task"), ("fewshot",))
    return int(sum(prepare(node, root, archives, options.get("lists")) for node in nodes.values()) > 0)


def prepare(node: Mapping[str, Any], root: Path, archives: Path, lists: str | None) -> int:
    """One set: lists, then images. Returns the number of images that are still missing."""
    place_lists(node, root, lists)
    missing = missing_images(node, root)
    absent: list[str] = []
    if missing:
        absent = unpack(node, root, archives)
        missing = missing_images(node, root)
    if not missing:
        print(f"{node['name']}: complete; python run.py dataset={node['name']} paths.data={root}")
        return 0
    places = ", ".join(str(root / folder) for folder in node["image_dirs"])
    wanted = f"; not found: {', '.join(str(archives / name) for name in absent)}" if absent else ""
    count = f"{len(missing)} images are missing, first {missing[0]}"
    print(f"{node['name']}: {count} (put them into one of {places}){wanted}")
    return len(missing)


if __name__ == "__main__":
    raise SystemExit(main(run, __doc__ or "", ("root", "task", "archives", "lists")))
