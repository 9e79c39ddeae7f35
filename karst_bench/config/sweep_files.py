"""conf/sweep/*.yaml: what a table or figure consists of, said once for the sweep that fills it and the report that prints it.

title: text                                        # or one for each suite: {vtab: text, mini: text}
axes: {method: [a, b], dataset: {vtab: ..., mini: ...}, seed: [0, 1, 2], backbone: ...}
table: {columns: task | group, further_methods: true | false, printed: {vtab: FILE}}    # absent where no table is made
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from karst_bench.errors import UserError
from karst_bench.files import packaged

SUITES = ("vtab", "mini")
KEYS = {"title", "axes", "table"}


@dataclass(frozen=True)
class TableLayout:
    """How a sweep is printed: a column per "task" or "group", whether other methods' runs join, the paper's file."""

    columns: str
    further_methods: bool
    printed: str | None


@dataclass(frozen=True)
class SweepFile:
    """One conf/sweep/<name>.yaml as it holds for one suite; axis values as they stand on a command line."""

    name: str
    suite: str
    title: str
    axes: Mapping[str, tuple[str, ...]]
    table: TableLayout | None

    def values(self, axis: str) -> tuple[str, ...]:
        """The values of an axis. Raises: UserError where the file has no such axis."""
        if axis not in self.axes:
            raise UserError(f"conf/sweep/{self.name}.yaml has no axis {axis}; it has {', '.join(self.axes)}")
        return self.axes[axis]


def sweep_names(suite: str | None = None) -> list[str]:
    """The names that `sweep=` takes, without none; of a suite, those that are made for it."""
    names = sorted(path.stem for path in (packaged("conf") / "sweep").glob("*.yaml") if path.stem != "none")
    return names if suite is None else [name for name in names if _made_for(name, suite)]


def _made_for(name: str, suite: str) -> bool:
    """Whether every value that a sweep's file gives for each suite is given for this one."""
    said = yaml.safe_load((packaged("conf") / "sweep" / f"{name}.yaml").read_text(encoding="utf-8"))
    values = [said.get("title"), *(said.get("axes") or {}).values()]
    return all(suite in value for value in values if isinstance(value, dict))


def read_sweep(name: str, suite: str) -> SweepFile:
    """The axes and the layout of a sweep on one suite. Raises: UserError for an unknown name, or a file that says it wrong."""
    known = sweep_names()
    if name not in known:
        raise UserError(f"sweep={name} is unknown. Valid: {', '.join(known)}")
    said = yaml.safe_load((packaged("conf") / "sweep" / f"{name}.yaml").read_text(encoding="utf-8"))
    if not isinstance(said, dict) or not {"title", "axes"} <= set(said) <= KEYS:
        raise UserError(f"conf/sweep/{name}.yaml needs the keys title and axes, and may have table")
    axes = {key: _values(_of_suite(value, suite, name)) for key, value in said["axes"].items()}
    table = said.get("table")
    layout = None
    if table is not None:
        printed = table.get("printed", {}).get(suite)
        layout = TableLayout(str(table["columns"]), bool(table["further_methods"]), printed)
    return SweepFile(name, suite, str(_of_suite(said["title"], suite, name)), axes, layout)


def _of_suite(value: Any, suite: str, name: str) -> Any:
    """The suite's own value where a value is given for each suite."""
    if not isinstance(value, dict):
        return value
    if suite not in value:
        raise UserError(f"sweep={name} is not made for suite={suite}; it knows {', '.join(map(str, value))}")
    return value[suite]


def _values(value: Any) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list) else (str(value),)
