"""conf/sweep/*.yaml, what a table or figure consists of, said once for the sweep that fills it and the report that prints it.

    title: text                                        # or one for each suite: {vtab: text, mini: text}
    rows: {name: {row: printed, method: a, extra: b}}  # in place of the axis method; each is experiment=<this file>/name too
    axes: {method: [a, b], dataset: {vtab: ..., mini: ...}, seed: [0, 1, 2], backbone: ...}   # null: no such axis in that suite
    table:                                             # absent where no table is made
      columns: task | group
      further_methods: true | false                    # whether runs of other methods join below
      printed: {vtab: FILE}                            # the paper's own numbers, under results/paper
      protocols: [last, peek10]                        # whose runs it prints; these two where nothing is said
    report: {contrasts: [karst:lora]}                  # pairs of methods that its table compares; conf/config.yaml has a default
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from karst_bench.config.option_files import config_dir, option_file, options, sweep_rows
from karst_bench.errors import UserError, nearest

SUITES = ("vtab", "mini")
KEYS = {"title", "rows", "axes", "table", "report"}


@dataclass(frozen=True)
class TableLayout:
    """How a sweep is printed: a column per "task" or "group", whether other methods' runs join, the paper's file, the protocols."""

    columns: str
    further_methods: bool
    printed: str | None
    protocols: tuple[str, ...]


@dataclass(frozen=True)
class SweepFile:
    """One conf/sweep/<name>.yaml as it holds for one suite; axis values as they stand on a command line."""

    name: str
    suite: str
    title: str
    axes: Mapping[str, tuple[str, ...]]
    table: TableLayout | None
    contrasts: tuple[str, ...] = ()

    @property
    def tuned(self) -> str:
        """How the values of its rows were tuned."""
        return self.axes.get("tuned", ("none",))[0]

    def values(self, axis: str) -> tuple[str, ...]:
        """The values of an axis. Raises: UserError where the file has no such axis."""
        if axis not in self.axes:
            raise UserError(f"conf/sweep/{self.name}.yaml has no axis {axis}; it has {', '.join(self.axes)}")
        return self.axes[axis]


def sweep_names(suite: str | None = None) -> list[str]:
    """The names that `sweep=` takes, without none; of a suite, those that are made for it."""
    names = [name for name in options("sweep") if name != "none"]
    return names if suite is None else [name for name in names if _made_for(name, suite)]


def _made_for(name: str, suite: str) -> bool:
    """Whether every value that a sweep's file gives for each suite is given for this one."""
    said = _said(name)
    values = [said["title"], *said["axes"].values()]
    return all(suite in value for value in values if isinstance(value, dict))


def read_sweep(name: str, suite: str) -> SweepFile:
    """The axes and the layout of a sweep on one suite. Raises: UserError for an unknown name, or a file that says it wrong."""
    known = sweep_names()
    if name not in known:
        raise UserError(f"sweep={name} is unknown{nearest(name, known) or '.'} Valid: {', '.join(known)}")
    said = _said(name)
    of_suite = {key: _of_suite(value, suite, name) for key, value in said["axes"].items()}
    axes = {key: _values(value) for key, value in of_suite.items() if value is not None}
    if "rows" in said:
        axes = {"experiment": tuple(row.name for row in sweep_rows() if row.name.startswith(f"{name}/"))} | axes
    title, table = str(_of_suite(said["title"], suite, name)), _layout(said.get("table"), suite, name)
    return SweepFile(name, suite, title, axes, table, declared_contrasts(said.get("report"), f"conf/sweep/{name}.yaml"))


def declared_contrasts(report: Any, where: str) -> tuple[str, ...]:
    """`{contrasts: [karst:lora]}` as words; nothing where nothing is said. Raises: UserError for other keys."""
    if report is None:
        return ()
    if not isinstance(report, Mapping) or set(report) != {"contrasts"}:
        raise UserError(f"{where}: report has one key, contrasts: [karst:lora, ssf:lora]")
    value = report["contrasts"]
    return () if value is None else tuple(map(str, value)) if isinstance(value, list) else tuple(str(value).split(","))


def default_contrasts() -> tuple[str, ...]:
    """report.contrasts of conf/config.yaml. Raises: UserError as above."""
    config = yaml.safe_load((config_dir() / "config.yaml").read_text(encoding="utf-8"))
    return declared_contrasts(config.get("report"), "conf/config.yaml")


def _said(name: str) -> dict[str, Any]:
    said = yaml.safe_load(option_file("sweep", name).read_text(encoding="utf-8"))
    if not isinstance(said, dict) or not {"title", "axes"} <= set(said) <= KEYS or not isinstance(said["axes"], dict):
        raise UserError(f"conf/sweep/{name}.yaml needs the keys title and axes, and may have rows, table and report")
    return said


def _layout(table: object, suite: str, name: str) -> TableLayout | None:
    if table is None:
        return None
    if not isinstance(table, dict) or table.get("columns") not in ("task", "group"):
        raise UserError(f"conf/sweep/{name}.yaml: table needs columns: task or group, and further_methods: true or false")
    protocols = _values(table.get("protocols", ["last", "peek10"]))
    return TableLayout(table["columns"], bool(table.get("further_methods")), table.get("printed", {}).get(suite), protocols)


def _of_suite(value: object, suite: str, name: str) -> object:
    """The suite's own value where a value is given for each suite."""
    if not isinstance(value, dict):
        return value
    if suite not in value:
        raise UserError(f"sweep={name} is not made for suite={suite}; it knows {', '.join(map(str, value))}")
    return value[suite]


def _values(value: object) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list) else (str(value),)
