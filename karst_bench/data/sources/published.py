"""What the published lists of a set look like: sizes, classes, and the hashes of the few-shot lists."""

import contextlib
import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from karst_bench import files
from karst_bench.data.sources.lists import Scan, text_sha256
from karst_bench.data.sources.vtab_splits import RULES
from karst_bench.errors import UserError


@cache
def fewshot_sums() -> dict[str, dict[str, str]]:
    """{folder of the set: {list file: SHA-256}} of the 86 lists, at the commit that fewshot_source() names."""
    found: dict[str, dict[str, str]] = _published()["sha256"]
    return found


def fewshot_source() -> tuple[str, str, str]:
    """(repository, commit, folder in it) of the published few-shot lists; MIT licence."""
    found = _published()
    return found["repository"], found["commit"], found["folder"]


@cache
def _published() -> dict[str, Any]:
    text = resources.files("karst_bench.data.sources").joinpath("fewshot_lists.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


FGVC = ("cub", "nabirds", "flowers", "dogs", "cars")


def is_published(dataset: Mapping[str, Any]) -> bool:
    """Whether this is a set of the suite, whose lists say which pictures are meant; not one added beside them."""
    suite, task = dataset["suite"], dataset["task"]
    known = {"vtab": RULES, "fgvc": FGVC}.get(suite, ())
    listed = suite == "fewshot" and dataset.get("folder") in fewshot_sums()
    return dataset["name"] == f"{suite}/{task}" and (listed or task in known)


def differences(dataset: Mapping[str, Any], scans: Mapping[str, Scan]) -> list[str]:
    """In what the lists differ from the published ones, one short text each; empty where they do not."""
    sizes = dict(dataset["sizes"])
    if dataset["suite"] == "vtab":
        sizes["train800val200"] = sizes["train800"] + sizes["val200"]
    found = [
        f"{name} has {len(scan.rows)} rows, not {sizes[name]}"
        for name, scan in scans.items()
        if name in sizes and len(scan.rows) != sizes[name]
    ]
    if "test" in scans:
        seen = len({row.label for row in scans["test"].rows})
        if seen != dataset["classes"]:
            found.append(f"the test list shows {seen} of {dataset['classes']} classes")
    if dataset["suite"] == "fewshot":
        sums = fewshot_sums()[dataset["folder"]]
        for scan in scans.values():
            if text_sha256(scan.rows) != sums.get(scan.file.name):
                found.append(f"{scan.file.name} differs from the published list")
    return found


def changed_since_first_use(seen: Path, home: Path, lists_sha256: str) -> str | None:
    """A line to show if the lists in `home` are not those that were first read there; `seen` remembers {home: hash}.

    VTAB-1K's lists have no published hash, so a label changed within its range shows here or nowhere.
    """
    try:
        known = json.loads(seen.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        known = {}
    first = str(known.setdefault(str(home.resolve()), lists_sha256)) if isinstance(known, dict) else lists_sha256
    if first != lists_sha256:
        return f"the lists in {home} changed since they were first used here ({first[:12]}, now {lists_sha256[:12]})"
    with contextlib.suppress(UserError):
        files.write(seen, (json.dumps(known, indent=1) + "\n").encode())
    return None
