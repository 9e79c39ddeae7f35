"""From plain settings to method objects: typed, and nothing outside this package."""

import importlib
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from karst_bench.errors import UserError
from karst_bench.methods.base import Method

NODES = ("method", "also", "extra")  # attached in this order: changes, then what re-scales them


def build_methods(settings: Mapping[str, Any]) -> list[Method]:
    """The methods of a configuration, `none` left out. Raises: UserError for a foreign target or a value of the wrong type."""
    chosen = {node: settings[node] for node in NODES if settings[node]["name"] != "none"}
    return [build_method(node, values) for node, values in chosen.items()]


def build_method(node: str, values: Mapping[str, Any]) -> Method:
    """One method from its settings; `_target_` names a class below karst_bench.methods."""
    target = str(values.get("_target_", ""))
    if not target.startswith("karst_bench.methods."):
        raise UserError(
            f"{node}._target_={target!r} lies outside karst_bench.methods; only the suite's own methods are built"
        )
    module, _, name = target.rpartition(".")
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{node}._target_={target} does not exist: {error}") from error
    if not (isinstance(kind, type) and issubclass(kind, Method)):
        raise UserError(f"{node}._target_={target} is no Method")
    given = {key: value for key, value in values.items() if key != "_target_"}
    wanted = {field.name: field.type for field in fields(kind)}
    if odd := sorted(given.keys() ^ wanted.keys()):
        raise UserError(
            f"{node}={values.get('name')}: {', '.join(odd)} missing or unknown; its keys are {', '.join(wanted)}"
        )
    for key, value in given.items():
        if not _fits(value, wanted[key]):
            raise UserError(f"{node}.{key}={value!r} must be of type {_shown(wanted[key])}")
        _check_range(f"{node}.{key}={value!r}", key, value, zero=key in kind.may_be_zero)
    return kind(**given)


def _check_range(said: str, key: str, value: Any, *, zero: bool) -> None:
    """Whole numbers are counts (ranks, kernels, prompts, widths), dropout is a probability, and nothing is infinite."""
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            _check_range(said, key, part, zero=zero)
    elif key == "dropout":
        if not 0 <= value < 1:
            raise UserError(f"{said} must lie in [0, 1)")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise UserError(f"{said} must be a finite number")
    elif isinstance(value, int) and not isinstance(value, bool):
        least = 0 if zero else 1
        if value < least:
            raise UserError(f"{said} must be at least {least}")


def _fits(value: Any, wanted: Any) -> bool:
    """Whether a plain value has the annotated type; an int does for a float, a bool never for a number."""
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (types.UnionType, typing.Union):
        return any(_fits(value, argument) for argument in arguments)
    if origin is list:
        return isinstance(value, list) and all(_fits(item, arguments[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(item, arguments[1]) for item in value.values())
    if wanted is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if wanted is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return value is None if wanted is type(None) else isinstance(value, wanted)


def _shown(wanted: Any) -> str:
    return wanted.__name__ if isinstance(wanted, type) and not typing.get_args(wanted) else str(wanted)
