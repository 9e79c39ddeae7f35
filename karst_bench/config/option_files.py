"""One option of a config group as plain data, read from its file: for pages that go through all of them, without Hydra."""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from karst_bench.config.compose import config_dir, nearest, options
from karst_bench.errors import UserError

BASE = (
    "@_here_"  # in a defaults list: `vtab/_base@_here_`, a file whose keys the option has too unless it gives its own
)


def option_config(group: str, option: str) -> dict[str, Any]:
    """conf/<group>/<option>.yaml with the bases that its defaults list names, merged as Hydra merges them.

    Interpolations stay as they are written. Raises: UserError if there is no such option.
    """
    if option not in (valid := options(group)):
        raise UserError(f"{group}={option} is unknown{nearest(option, valid)}. Valid: {', '.join(valid)}")
    merged = OmegaConf.to_container(_merged(group, option))
    assert isinstance(merged, dict)
    return {str(key): value for key, value in merged.items()}


def option_defaults(group: str, option: str) -> dict[str, str]:
    """What the defaults list of conf/<group>/<option>.yaml overrides: {"method": "fact_tk", "extra": "rst_scalar"}."""
    lines = OmegaConf.select(OmegaConf.load(config_dir() / group / f"{option}.yaml"), "defaults", default=[])
    pairs = [next(iter(line.items())) for line in lines if isinstance(line, DictConfig)]
    return {str(key).removeprefix("override /").partition("@")[0]: str(value) for key, value in pairs}


def _merged(group: str, name: str) -> DictConfig:
    own = OmegaConf.load(config_dir() / group / f"{name}.yaml")
    assert isinstance(own, DictConfig)
    bases = [entry.removesuffix(BASE) for entry in own.pop("defaults", []) if str(entry).endswith(BASE)]
    found = OmegaConf.merge(*(_merged(group, base) for base in bases), own)
    assert isinstance(found, DictConfig)
    return found
