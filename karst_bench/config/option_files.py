"""Config groups as files: which options there are, and one of them as plain data; for pages and tables, without Hydra."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from karst_bench.errors import UserError, nearest
from karst_bench.files import packaged
from karst_bench.plugins import plugin_conf
from karst_bench.yaml_text import load_yaml, loaded

BASE = (
    "@_here_"  # in a defaults list: `vtab/_base@_here_`, a file whose keys the option has too unless it gives its own
)


@dataclass(frozen=True)
class SweepRow:
    """A row that is more than a method, as an option of `experiment`: ("table3/ka", "KA", "ka", "none")."""

    name: str
    printed: str
    method: str
    extra: str


def config_dir() -> Path:
    """The conf/ folder: inside the installed package, or at the root of a checkout."""
    return packaged("conf")


def options(group: str) -> list[str]:
    """Every option of a config group, nested ones with their folder; files named _* are shared parts; `also` takes any method,
    and `experiment` a row of a sweep.
    """
    if group == "experiment":
        return ["none", *(row.name for row in sweep_rows())]
    found = set()
    for root in (folder / ("method" if group == "also" else group) for folder in (config_dir(), *plugin_conf())):
        files = root.glob("*.yaml") if group == "tuned" else root.rglob("*.yaml")  # tuned/<kind>/ holds tables, no options
        found |= {str(path.relative_to(root).with_suffix("")) for path in files if not path.name.startswith("_")}
    return sorted(found)


def option_file(group: str, option: str) -> Path:
    """The YAML file of an option, the suite's own before a plug-in's; where the suite's own would lie if there is none."""
    places = [folder / group / f"{option}.yaml" for folder in (config_dir(), *plugin_conf())]
    return next((place for place in places if place.is_file()), places[0])


def option_config(group: str, option: str) -> dict[str, Any]:
    """conf/<group>/<option>.yaml with the bases that its defaults list names, merged as Hydra merges them.

    Interpolations stay as they are written. Raises: UserError if there is no such option.
    """
    if option not in (valid := options(group)):
        raise UserError(f"{group}={option} is unknown{nearest(option, valid) or '.'} Valid: {', '.join(valid)}")
    merged = OmegaConf.to_container(_merged(group, option))
    assert isinstance(merged, dict)
    return {str(key): value for key, value in merged.items()}


def sweep_rows() -> tuple[SweepRow, ...]:
    """The rows of all sweeps' files. Raises: UserError for one with other keys."""
    found: list[SweepRow] = []
    for sweep in options("sweep"):
        found += _rows(sweep, option_file("sweep", sweep).read_text(encoding="utf-8"))
    return tuple(found)


@lru_cache(maxsize=64)
def _rows(sweep: str, text: str) -> tuple[SweepRow, ...]:
    """The rows in the text of a sweep's file, which every composition asks for."""
    found = []
    for name, row in loaded(text).get("rows", {}).items():
        if not isinstance(row, DictConfig) or set(row) != {"row", "method", "extra"}:
            raise UserError(f"conf/sweep/{sweep}.yaml, row {name}: give it the keys row, method and extra")
        found.append(SweepRow(f"{sweep}/{name}", str(row.row), str(row.method), str(row.extra)))
    return tuple(found)


def option_defaults(group: str, option: str) -> dict[str, str]:
    """What the defaults list of conf/<group>/<option>.yaml overrides: {"method": "fact_tk", "extra": "rst_scalar"}."""
    lines = load_yaml(option_file(group, option)).get("defaults", [])
    pairs = [next(iter(line.items())) for line in lines if isinstance(line, DictConfig)]
    return {str(key).removeprefix("override /").partition("@")[0]: str(value) for key, value in pairs}


def all_defaults(group: str, option: str) -> dict[str, str]:
    """`option_defaults` with those of the option's bases, its own winning."""
    lines = load_yaml(option_file(group, option)).get("defaults", [])
    found: dict[str, str] = {}
    for base in (str(line).removesuffix(BASE) for line in lines if str(line).endswith(BASE)):
        found |= all_defaults(group, base)
    return found | option_defaults(group, option)


def _merged(group: str, name: str) -> DictConfig:
    own = load_yaml(option_file(group, name))
    bases = [entry.removesuffix(BASE) for entry in own.pop("defaults", []) if str(entry).endswith(BASE)]
    found = OmegaConf.merge(*(_merged(group, base) for base in bases), own)
    assert isinstance(found, DictConfig)
    return found
