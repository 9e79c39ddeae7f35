"""Tables of tuned values as files: read and checked to the last value, as they may be another's.

A value is a number, a word or a list of them, below a group that a table may tune; it names no class, stands for no other
value and for no variable of the environment. Aliases of YAML are not read: ten lines of them are a billion values.
"""

import copy
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from karst_bench.yaml_text import yaml_values

KEY = re.compile(r"(method|recipe|augment|also|extra|regularizer)(\.[A-Za-z]\w*)+")
SETTING = ("recipe", "normalization", "backbone", "protocol")  # what a table may choose besides values
FAMILIES = ("vit", "swin")
SCANNER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's, where PyYAML was built with it


def read_table(file: Path) -> dict[str, Any]:
    """The entries of a table. Raises: ValueError, TypeError and what YAML raises, for anything else."""
    return copy.deepcopy(_parsed(file.read_text(encoding="utf-8")))


@lru_cache(maxsize=128)
def _parsed(text: str) -> dict[str, Any]:
    """A text's entries, parsed and checked once: every cell of a sweep reads its method's table."""
    nodes = [event for event in yaml.parse(text, Loader=SCANNER) if isinstance(event, yaml.NodeEvent)]
    _need(not any(isinstance(node, yaml.AliasEvent) for node in nodes), "it has aliases of YAML (*name), which are not read; "
          "write the values out")  # fmt: skip
    _need(not nodes or isinstance(nodes[0], yaml.MappingStartEvent), "datasets with key: value pairs below them")
    entries = yaml_values(text)
    _check_part(entries)
    return {str(key): value for key, value in entries.items()}


def _check_part(part: Mapping[Any, Any]) -> None:
    """A whole table, or that of a family within one."""
    for key, value in part.items():
        if key in ("source", "family"):
            _need(value is None or _is_text(value), f"{key} is a text that stands for itself")
        elif key == "settings":
            for suite, chosen in _mapping(value, key).items():
                odd = sorted(map(str, _mapping(chosen, f"settings.{suite}").keys() - set(SETTING)))
                _need(not odd, f"settings hold {', '.join(SETTING)}, not {', '.join(odd)[:80]}")
                _need(all(isinstance(name, str) for name in chosen.values()), "settings are names")
        elif key == "lacks":
            _need(all(_is_text(said) for said in _mapping(value, key).values()), "lacks says texts that stand for themselves")
        elif key == "searched":
            _need(isinstance(value, list), "searched is a list")
            for searched in value:
                _check_searched(_mapping(searched, key))
        elif key in FAMILIES:
            _check_part(_mapping(value, key))
        elif key != "provenance":
            for values in _mapping(value, str(key)).values() if key == "every" else [value]:
                _check_values(values)


def _check_searched(part: Mapping[Any, Any]) -> None:
    facts = _mapping(part.get("backbone"), "searched.backbone")
    _need(all(isinstance(facts.get(key), str) for key in ("name", "timm_name", "weights")), "a searched backbone has a name, "
          "timm_name and weights")  # fmt: skip
    for values in _mapping(part.get("values"), "searched.values").values():
        _check_values(values)


def _check_values(values: Any) -> None:
    """{key: value}, or the same by shots."""
    for key, value in _mapping(values, "an entry").items():
        if isinstance(key, int):
            _check_values(value)
            continue
        tunable = isinstance(key, str) and KEY.fullmatch(key) is not None and not key.endswith(".name")
        _need(tunable, f"{str(key)[:80]} is tuned by no table")
        for item in value if isinstance(value, list) else [value]:
            _need(item is None or isinstance(item, int | float | str), f"{key} is a number, a word or a list of them")
            _need("${" not in str(item), f"{key} stands for another value")


def _is_text(value: object) -> bool:
    return isinstance(value, str) and "${" not in value


def _mapping(value: Any, what: str) -> Mapping[Any, Any]:
    _need(isinstance(value, Mapping), f"{what[:80]} has keys and values")
    assert isinstance(value, Mapping)
    return value


def _need(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(what)
