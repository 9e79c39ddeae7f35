"""What a search may vary: conf/space/*.yaml as distributions, checked against the defaults."""

from collections.abc import Collection, Mapping
from typing import Any

from omegaconf import OmegaConf
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from karst_bench.config.option_files import option_file
from karst_bench.errors import UserError

Space = dict[str, BaseDistribution]


def read_space(method: str, given: Collection[str] = (), *, regularizer: str = "none") -> Space:
    """conf/space/default.yaml under <method>.yaml and <regularizer>.yaml, without the keys given on the command line."""
    merged: dict[str, Any] = {}
    for name in ("default", method, regularizer):
        if (path := option_file("space", name)).is_file():
            merged |= dict(OmegaConf.to_container(OmegaConf.load(path)) or {})  # type: ignore[arg-type]
    space = {key: distribution(key, entry) for key, entry in merged.items() if entry is not None and key not in given}
    if not space:
        raise UserError(f"method={method}: nothing left to search; the space is conf/space/{method}.yaml")
    return space


def distribution(key: str, entry: Mapping[str, Any]) -> BaseDistribution:
    """{choices: [...]} or {low, high, log, step} as Optuna's distribution. Raises: UserError for anything else."""
    if set(entry) == {"choices"} and entry["choices"]:
        return CategoricalDistribution(entry["choices"])
    if {"low", "high"} <= set(entry) <= {"low", "high", "log", "step"} and entry["low"] <= entry["high"]:
        whole = isinstance(entry["low"], int) and isinstance(entry["high"], int)
        low, high, log = entry["low"], entry["high"], bool(entry.get("log"))
        return (
            IntDistribution(low, high, log, entry.get("step", 1))
            if whole
            else FloatDistribution(low, high, log, entry.get("step"))
        )
    raise UserError(f"space: {key} is {dict(entry)}; write {{choices: [...]}} or {{low: a, high: b, log: true}}")


def check_default(key: str, value: Any, distribution: BaseDistribution) -> None:
    """Raises: UserError where a key's default lies outside what is searched."""
    if isinstance(distribution, CategoricalDistribution):
        inside = value in distribution.choices
    else:
        assert isinstance(distribution, IntDistribution | FloatDistribution)
        inside = value is not None and distribution.low <= value <= distribution.high
    if not inside:
        raise UserError(
            f"{key} has the default {value}, which is outside {distribution}: trial 0 is the default, so add it to the "
            "values given, or widen conf/space"
        )
