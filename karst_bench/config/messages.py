"""Hydra's errors as one paragraph: what is wrong, the nearest valid name, the valid ones."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from hydra.errors import ConfigCompositionException, HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from karst_bench.config.words import check_prefixes, comma_hint, quoting_hint
from karst_bench.errors import UserError, nearest

GROUPS = ("method", "also", "extra", "regularizer", "backbone", "dataset", "recipe", "augment", "protocol", "tuned", "tracker",
          "sweep", "experiment")  # fmt: skip
SINGLE = tuple(group for group in GROUPS if group != "tracker")  # several trackers may watch one run
Compose = Callable[[Sequence[str]], DictConfig]
Options = Callable[[str], list[str]]


@contextmanager
def friendly(overrides: Sequence[str], compose: Compose, options: Options) -> Iterator[None]:
    """Turns what Hydra raises within into a UserError; `compose` and `options` find the names that would be valid.

    Words with `+` and `~` are checked first: Hydra would add whatever they say.
    """
    for override in overrides:
        key, _, value = override.partition("=")
        if value.startswith("[") and key.lstrip("+~") in SINGLE:
            raise UserError(
                f"{override}: {key} takes one option. Two methods on one backbone: method=lora also=vpt_deep; "
                f"several runs: -m {key}={value.strip('[]')}"
            )
    try:
        check_prefixes(overrides, lambda: list(keys_of(compose(_choices(overrides)))), GROUPS)
        yield
    except (HydraException, ConfigCompositionException, OmegaConfBaseException, ValueError) as error:
        raise UserError(_explain(error, overrides, compose, options)) from error


def keys_of(cfg: DictConfig, prefix: str = "") -> Iterator[str]:
    """Every dotted key of a configuration that may be set, nodes before their contents."""
    for key in cfg:
        if key == "about":  # what a method or dataset is called and stands for
            continue
        name = f"{prefix}{key!s}"
        yield name
        if (
            not OmegaConf.is_missing(cfg, key)
            and not OmegaConf.is_interpolation(cfg, str(key))
            and OmegaConf.is_dict(cfg[key])
        ):
            yield from keys_of(cfg[key], f"{name}.")


def _explain(error: Exception, overrides: Sequence[str], compose: Compose, options: Options) -> str:
    text = " ".join(str(cause) for cause in (error, error.__cause__) if cause)
    if match := re.search(r"Could not find '([^']+)'|Could not override '([^']+/[^']*)'", text):
        return _unknown_option(match.group(1) or match.group(2), options)
    if match := re.search(r"In 'config': Could not find '?([\w/]+)", text):
        return _unknown_option(match.group(1), options)
    if match := re.search(r"(?:full_key|Could not override '?)[: ]*'?([\w.@/]+)", text):
        return _unknown_key(match.group(1), text, overrides, compose)
    if "Ambiguous" in text:
        said = "; several values need -m in front: karst-bench run -m seed=0,1,2"
        return f"{text.splitlines()[0]}{said}{comma_hint(overrides)}"
    if (hint := quoting_hint(overrides)) is not None:
        return hint
    return f"the command line does not make a configuration: {text.splitlines()[0]}"


def _choices(overrides: Sequence[str]) -> list[str]:
    """The options that the words choose, one each."""
    return [word for word in overrides if word.partition("=")[0] in GROUPS and "," not in word]


def unresolved(error: OmegaConfBaseException) -> str:
    """What is missing of a configuration: the key, and why its value cannot be worked out."""
    text = str(error).splitlines()[0]
    where = f"{error.full_key}: " if error.full_key else ""
    if match := re.search(r"Environment variable '([^']+)' not found", text):
        name = match.group(1)
        return f"{where}the environment variable {name} is not set; set it, or give the key another value"
    if "nterpolation" in text:
        return f"{where}{text}; ${{...}} stands for another key's value, or for a variable as ${{oc.env:NAME}}"
    return f"the configuration is incomplete: {where}{text}"


def _unknown_option(path: str, options: Options) -> str:
    group = next((g for g in GROUPS if path.startswith(f"{g}/")), path.partition("/")[0])
    option, valid = path.removeprefix(f"{group}/"), options(group)
    return f"{group}={option} is unknown{nearest(option, valid) or '.'} Valid: {', '.join(valid)}"


def _unknown_key(key: str, text: str, overrides: Sequence[str], compose: Compose) -> str:
    if "could not be converted" in text or "Value '" in text:
        return f"{key}: {text.splitlines()[0]}"
    keys = list(keys_of(compose(_choices(overrides))))
    if key in keys:
        given = next((word for word in overrides if word.partition("=")[0] == key), key)
        return f"{given} is no value of {key}: {text.splitlines()[0]}"
    parent = key.rpartition(".")[0]
    siblings = [k for k in keys if k.startswith(f"{parent}.")] if parent else []
    shown = f" Keys of {parent}: {', '.join(k.removeprefix(parent + '.') for k in siblings)}" if siblings else ""
    return f"unknown key {key}{nearest(key, keys) or '.'}{shown}"
