"""From plain settings to method objects: typed, and nothing outside this package.

A method's settings are its hyper-parameters, `name`, `_target_` (the class) and `about`, which says once what the method
is called and stands for. `about` changes no number: it is no part of a run's identity, reaches no constructor, and
travels in the record as config.method.about. Every key may be absent or null but the title.
- title: the name in tables, figures and pages, one for each method.
- paper: its arXiv number, a string.
- row: the printed row of results/paper/*.csv that this method stands for; at most one method a row.
- extra: the re-scaling that the method brings along (its `override /extra`); reports name another one, or none.
- printed: {backbone: millions of trained parameters as the paper prints them, a string}.
- why: why ours differ from the printed ones, or what they depend on.
"""

import importlib
import typing
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import msgspec

import karst_bench.methods as package
from karst_bench.errors import UserError
from karst_bench.methods.base import Method
from karst_bench.plugins import plugin_folders

NODES = ("method", "also", "extra")  # attached in this order: changes, then what re-scales them
SHARES = ("dropout", "branch_drop", "drop_path", "masked", "rho", "rho_start")  # probabilities and shares of a whole
LARGEST = (2 - 2**-23) * 2.0**127  # of float32
HOME = "karst_bench.methods."


def build_methods(settings: Mapping[str, Any]) -> list[Method]:
    """The methods of a configuration, `none` left out. Raises: UserError for a foreign target or a value of the wrong type."""
    chosen = {node: settings[node] for node in NODES if settings[node]["name"] != "none"}
    return [build_method(node, values) for node, values in chosen.items()]


def build_method(node: str, values: Mapping[str, Any]) -> Method:
    """One method from its settings; `_target_` names a class below karst_bench.methods, where plug-ins' files are found too.

    Raises: UserError for a class of another place, a key that is missing or unknown, a value of another type.
    """
    kind = _class(f"{node}._target_", str(values.get("_target_", "")))
    given = {key: value for key, value in values.items() if key not in ("_target_", "about")}
    hints = typing.get_type_hints(kind)
    wanted = {field.name: hints[field.name] for field in fields(kind)}
    if odd := sorted(given.keys() ^ wanted.keys()):
        raise UserError(
            f"{node}={values.get('name')}: {', '.join(odd)} missing or unknown; its keys are {', '.join(wanted)}"
        )
    for key, value in given.items():
        try:
            value = given[key] = msgspec.convert(value, wanted[key])  # 0 for a number with decimals is 0.0, and no count
        except msgspec.ValidationError:
            raise UserError(f"{node}.{key}={value!r} must be of type {_shown(wanted[key])}") from None
        _check_range(f"{node}.{key}={value!r}", key, value, zero=key in kind.may_be_zero)
    return kind(**given)


def _class(said: str, target: str) -> type[Method]:
    if not target.startswith(HOME):
        raise UserError(
            f"{said}={target!r} lies outside karst_bench.methods; only the suite's own methods are built, and those of "
            "plug-in folders (KARST_BENCH_PLUGINS), which are found there"
        )
    package.__path__ += [str(f / "methods") for f in plugin_folders() if str(f / "methods") not in package.__path__]
    module, _, name = target.rpartition(".")
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{said}={target} does not exist: {error}") from error
    except Exception as error:  # whatever a file of someone's own does when it is read
        raise UserError(f"{said}={target}: its file ends with {type(error).__name__}: {error} (debug=true shows where)") from error
    if not (isinstance(kind, type) and issubclass(kind, Method)):
        raise UserError(f"{said}={target} is no Method")
    return kind


def _check_range(said: str, key: str, value: Any, *, zero: bool) -> None:
    """Whole numbers are counts (ranks, kernels, prompts, widths), SHARES lie in [0, 1), and nothing is infinite."""
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            _check_range(said, key, part, zero=zero)
    elif key in SHARES:
        if not 0 <= value < 1:
            raise UserError(f"{said} must lie in [0, 1)")
    elif isinstance(value, float):
        if not abs(value) <= LARGEST:
            raise UserError(f"{said} must be a finite number of float32")
    elif isinstance(value, int) and not isinstance(value, bool):
        least = 0 if zero else 1
        if value < least:
            raise UserError(f"{said} must be at least {least}")


def _shown(wanted: Any) -> str:
    return wanted.__name__ if isinstance(wanted, type) and not typing.get_args(wanted) else str(wanted)
