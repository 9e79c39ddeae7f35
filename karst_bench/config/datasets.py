"""The dataset nodes of conf/ as plain dicts, for scripts that go through all sets (a run gets its node from Hydra)."""

from __future__ import annotations

from typing import Any

import yaml

from karst_bench.errors import UserError
from karst_bench.files import packaged

SUITES = ("vtab", "fewshot")


def dataset_configs(suites: tuple[str, ...] = SUITES) -> dict[str, dict[str, Any]]:
    """{option: node}, natural, specialized, structured, then few-shot sets, by name within a group."""
    found = {}
    for suite in suites:
        for file in sorted((packaged("conf") / "dataset" / suite).glob("*.yaml")):
            node: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
            node.pop("defaults", None)
            found[node["name"]] = node
    order = ("natural", "specialized", "structured", "fewshot")
    return dict(sorted(found.items(), key=lambda item: order.index(item[1]["group"])))


def choose(names: str | None, suites: tuple[str, ...] = SUITES) -> dict[str, dict[str, Any]]:
    """The nodes that `task=a,b` names, by option (vtab/pets) or by last part (pets: both); all for None.

    Raises: UserError for a name that is none of them.
    """
    nodes = dataset_configs(suites)
    if names is None:
        return nodes
    chosen: dict[str, dict[str, Any]] = {}
    for name in names.split(","):
        fitting = {option: node for option, node in nodes.items() if name in (option, node["task"], node["folder"])}
        if not fitting:
            raise UserError(f"task={name}: no such set; choose from {', '.join(nodes)}")
        chosen |= fitting
    return chosen
