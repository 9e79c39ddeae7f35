"""The configurations of a sweep's cells, composing as few of them as tell the others."""

from collections.abc import Mapping, Sequence
from typing import Any

from karst_bench.config.compose import settings_of
from karst_bench.config.tuned import PAPER, with_searched
from karst_bench.config.words import given_keys, key_of

ABSENT = object()
Flat = dict[tuple[str, ...], Any]


def sweep_configs(planned: Sequence[Sequence[str]], swept: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """The configuration of each job. Values that a search found are put in after the rest was assembled, where one cell of each
    recipe and set of searched keys (and method, where keys are its own) shows that this is what composing gives; else each cell
    is composed."""
    words = {word for job in planned for word in job if word.startswith("tuned=")}
    kind = next(iter(words), "tuned=none").removeprefix("tuned=")
    if len(words) != 1 or kind in ("none", PAPER):
        return _assembled_configs(planned, swept)
    untuned = [["tuned=none" if word in words else word for word in job] for job in planned]
    searched: dict[tuple[str, ...], Flat] = {}
    holds: dict[tuple[object, ...], bool] = {}
    found = []
    for job, plain in zip(planned, _assembled_configs(untuned, swept), strict=True):
        base, alike = _flat(plain), tuple(word for word in job if not word.startswith("seed="))
        if alike not in searched:
            searched[alike] = _difference(base, _flat(with_searched(plain, kind, given_keys(job))))
        made = _changed(base, searched[alike])
        keys = frozenset(made["tuned"]["values"])
        own = plain["method"]["name"] if any(key.startswith("method.") for key in keys) else ""
        if not holds.get(like := (plain["recipe"]["name"], own, keys)):
            whole = settings_of(job).as_config()
            holds.setdefault(like, whole == made)
            made = whole
        found.append(made)
    return found


def _assembled_configs(planned: Sequence[Sequence[str]], swept: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """The same, composing only the first job and its neighbours along each axis.

    Composing 855 cells takes minutes, their 37 neighbours seconds. A cell is the first one with the changes of each of
    its values; where two values change one key differently, or values are tuned per cell, it is composed in full.
    """
    base_job = list(planned[0])
    base = _flat(settings_of(base_job).as_config())
    changes: dict[str, Flat] = {}
    for position, override in enumerate(base_job):
        key = override.partition("=")[0]
        for choice in swept.get(key_of(override), ())[1:]:
            job = [*base_job[:position], f"{key}={choice}", *base_job[position + 1 :]]
            changes[f"{key}={choice}"] = _difference(base, _flat(settings_of(job).as_config()))
    tuned = any(word.startswith("tuned=") and word != "tuned=none" for job in planned for word in job)
    return [_assembled(job, base, changes, tuned) for job in planned]


def _assembled(job: Sequence[str], base: Flat, changes: Mapping[str, Flat], tuned: bool) -> dict[str, Any]:
    merged: Flat = {}
    for override in job:
        for path, value in changes.get(override, {}).items():
            if tuned or (path in merged and merged[path] != value):
                return settings_of(job).as_config()
            merged[path] = value
    return _changed(base, merged)


def _changed(base: Flat, changes: Flat) -> dict[str, Any]:
    return _nested({path: value for path, value in (base | changes).items() if value is not ABSENT})


def _flat(node: object, path: tuple[str, ...] = ()) -> Flat:
    if not isinstance(node, dict) or not node:
        return {path: node}
    return {leaf: value for key, item in node.items() for leaf, value in _flat(item, (*path, str(key))).items()}


def _nested(flat: Flat) -> dict[str, object]:
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        node = tree
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = value
    return tree


def _difference(base: Flat, other: Flat) -> Flat:
    gone = dict.fromkeys(base.keys() - other.keys(), ABSENT)
    return gone | {path: value for path, value in other.items() if path not in base or base[path] != value}
