"""From what a user asks for (`sweep=table1 suite=mini`, `dataset=vtab/all`) to the plain overrides Hydra sweeps over.

Hydra's own globs do not see nested options (`dataset=glob(vtab/*)` launches nothing, without an error), and a key on
the command line does not replace an axis of `hydra.sweeper.params` but multiplies it; both are settled here.
"""

import fnmatch
import itertools
import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException

from karst_bench.config.datasets import dataset_members
from karst_bench.config.messages import GROUPS
from karst_bench.config.option_files import options, sweep_rows
from karst_bench.config.settings import check_choice
from karst_bench.config.sweep_files import read_sweep
from karst_bench.config.words import key_of, plain_words, quoting_hint
from karst_bench.errors import UserError

MULTIRUN = "hydra.mode=MULTIRUN"
ONE_MODEL = {"dataset", "seed", "protocol", "tuned", "recipe.lr", "recipe.wd", "recipe.epochs", "recipe.warmup"}
log = logging.getLogger(__name__)


def expand(overrides: Sequence[str]) -> list[str]:
    """The overrides that Hydra should see: sweep files inlined, task groups and globs spelt out.

    `dataset=vtab/all` becomes the 19 tasks, `mini/natural` the group, `fewshot/all` the five sets; `sweep=NAME` becomes
    the axes of conf/sweep/NAME.yaml except those given on the command line. Anything else passes unchanged.
    Options of a sweep file that do not exist yet are left out with a line in the log.
    Raises: UserError for an unknown sweep or group, and where a sweep would launch no job.
    """
    inlined = _inline(plain_words(overrides))
    expanded = [_expanded(override) for override in inlined]
    several = any("," in word and word != written for word, written in zip(expanded, inlined, strict=True))
    if several and MULTIRUN not in expanded:
        expanded.insert(0, MULTIRUN)
    jobs = 1
    for override in _parsed(expanded):
        jobs *= len(_choices(override))
    if jobs == 0:
        raise UserError(f"{' '.join(overrides)} would launch 0 jobs: one of its axes is empty")
    return _with_threads(expanded)


def jobs(overrides: Sequence[str]) -> list[list[str]]:
    """The override lists of the single runs, in the order Hydra launches them; hydra.* keys are left out."""
    axes = [
        [f"{override.get_key_element()}={choice}" for choice in _choices(override)]
        if override.is_sweep_override()
        else [str(override.input_line)]
        for override in _parsed(overrides)
        if not str(override.key_or_group).startswith("hydra")
    ]
    return [list(job) for job in itertools.product(*axes)]


def axes(overrides: Sequence[str]) -> dict[str, list[str]]:
    """The swept keys and their values, in order."""
    swept = [override for override in _parsed(overrides) if override.is_sweep_override()]
    return {str(override.key_or_group): _choices(override) for override in swept}


def runs_alike(overrides: Sequence[str]) -> Callable[[Sequence[str]], int]:
    """Of the words of one run, how many runs of this sweep have its model, whatever their classes: those that differ from it in
    data, seed or learning rate at most."""
    telling = {key for key in axes(overrides) if key not in ONE_MODEL and not key.startswith("dataset.")}

    def kind(words: Sequence[str]) -> frozenset[str]:
        return frozenset(word for word in words if key_of(word) in telling)

    counts = Counter(kind(job) for job in jobs(overrides))
    return lambda words: max(counts[kind(words)], 1)


def is_swept(override: str) -> bool:
    """Whether one word stands for several values."""
    return _parsed([override])[0].is_sweep_override()


def listed_values(overrides: Sequence[str]) -> dict[str, list[Any]]:
    """The swept keys and their values as numbers, booleans or strings, in order."""
    swept = [override for override in _parsed(overrides) if override.is_sweep_override()]
    return {str(override.key_or_group): list(override.sweep_iterator()) for override in swept}


def _parsed(overrides: Sequence[str]) -> list[Override]:
    try:
        return OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        hint = quoting_hint(overrides) or f"the command line cannot be read: {str(error).splitlines()[0]}"
        raise UserError(hint) from error


def _choices(override: Override) -> list[str]:
    return [str(choice) for choice in override.sweep_string_iterator()] if override.is_sweep_override() else [""]


def _keys(overrides: Sequence[str]) -> dict[str, str]:
    return {override.partition("=")[0]: override.partition("=")[2] for override in overrides}


def _inline(overrides: list[str]) -> list[str]:
    """Replace sweep=NAME by the axes of its file."""
    given = _keys(overrides)
    name = given.get("sweep", "none")
    if name == "none":
        return overrides
    if "," in name:
        raise UserError(f"sweep={name}: one sweep at a time, each has its own axes; run {' then '.join(_one_by_one(name))}")
    if "suite" in given:
        check_choice("suite", given["suite"])
    suite = "mini" if given.get("suite") == "mini" or given.get("dataset", "").startswith("mini/") else "vtab"
    replaced = {"method": ("method", "experiment"), "experiment": ("method", "experiment")}
    hidden = {axis for key in given for axis in replaced.get(key, (key,))}
    chosen = {key: values for key, values in read_sweep(name, suite).axes.items() if key not in hidden}
    lines = [f"{key}={_existing(key, values, name)}" for key, values in chosen.items()]
    return [MULTIRUN, *lines, *(o for o in overrides if o.partition("=")[0] not in ("sweep", "suite"))]


def _one_by_one(names: str) -> list[str]:
    return [f"sweep={name.strip()}" for name in names.split(",") if name.strip()]


def _existing(key: str, names: Sequence[str], sweep: str) -> str:
    """The values of a sweep file's axis without the methods that are not there (yet)."""
    if key not in ("method", "experiment"):
        return ",".join(names)
    present = [name for name in names if _exists(key, name)]
    if absent := [name for name in names if name not in present]:
        log.warning("sweep=%s: left out, as there is no such %s here: %s", sweep, key, ", ".join(absent))
    if not present:
        raise UserError(f"sweep={sweep} would launch 0 jobs: none of its {key}s exists: {', '.join(names)}")
    return ",".join(present)


def _exists(group: str, name: str) -> bool:
    if name not in options(group):
        return False
    return group == "method" or any(row.name == name and row.method in options("method") for row in sweep_rows())


def _expanded(override: str) -> str:
    """dataset=vtab/all, dataset=glob(vtab/c*) or method=glob(*,exclude=karst*) as a list; other overrides unchanged."""
    key, equals, value = override.partition("=")
    if key not in GROUPS or not equals:
        return override
    if value.startswith("glob("):
        (parsed,) = _parsed([override])
        glob = parsed.value()
        assert isinstance(glob, Glob)
        found = [name for name in _listed(key) if _any(name, glob.include) and not _any(name, glob.exclude)]
        if not found:
            raise UserError(
                f"{override} would launch 0 jobs: no {key} is named like that. Valid: {', '.join(_listed(key))}"
            )
        return f"{key}={','.join(found)}"
    if key != "dataset" or any(mark in value for mark in "[({'\""):
        return override
    names = itertools.chain.from_iterable(dataset_members(name.strip()) for name in value.split(","))
    return f"{key}={','.join(dict.fromkeys(names))}"


def _any(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _listed(group: str) -> list[str]:
    return [name for name in options(group) if name != "none"]


def _with_threads(overrides: list[str]) -> list[str]:
    """joblib workers share the cores: two processes with all cores each were ten times slower than with half."""
    given = _keys(overrides)
    if given.get("hydra/launcher") != "joblib" or "threads" in given:
        return overrides
    cores = os.cpu_count() or 1
    workers = int(given.get("hydra.launcher.n_jobs", -1))
    return [*overrides, f"threads={max(1, cores // (workers if workers > 0 else cores))}"]
