"""YAML files as configuration nodes, each text parsed once; without Hydra, so that reports read conf/ without it.

A text means what OmegaConf.load takes it for; where PyYAML has libyaml, that reads it, in a fifth of the time.
"""

import pickle
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf._utils import get_yaml_loader  # what is a number, a word, a key twice; tests/test_compat.py compares

from karst_bench.errors import UserError


def _fast_loader() -> Any:
    """OmegaConf's loader, whose reading of characters is libyaml's where there is one."""
    rules = get_yaml_loader()
    if not yaml.__with_libyaml__:
        return rules
    from yaml.cyaml import CParser
    from yaml.resolver import Resolver

    class Loader(CParser, rules):  # type: ignore[misc, valid-type]
        def __init__(self, text: str) -> None:
            CParser.__init__(self, text)
            yaml.constructor.SafeConstructor.__init__(self)
            Resolver.__init__(self)

    return Loader


LOADER = _fast_loader()


def load_yaml(path: Path) -> DictConfig:
    """OmegaConf.load of a file that holds a mapping; a text that was read before is not parsed again. Raises: UserError."""
    return loaded(text_of(path), path)


def text_of(path: Path) -> str:
    """What a file says. Raises: UserError where it is no UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no text in UTF-8 (byte {error.start}); save it as such") from error


def loaded(text: str, origin: Path | str = "a text") -> DictConfig:
    """The mapping of a YAML text, a node of the caller's own. Raises: UserError naming `origin` where it is no YAML."""
    try:
        return cast(DictConfig, pickle.loads(_parsed(text)))
    except yaml.YAMLError as error:
        raise UserError(f"{origin} is no YAML: {' '.join(str(error).split())}") from error


def yaml_values(text: str) -> Any:
    """The values of a YAML text, as OmegaConf takes them, in Python's own types; {} of an empty one."""
    values = yaml.load(text, Loader=LOADER)
    return {} if values is None else values


@lru_cache(maxsize=256)
def _parsed(text: str) -> bytes:
    """Pickled: composing writes into what it gets, and a copy by deepcopy takes five times as long."""
    return pickle.dumps(OmegaConf.create(yaml_values(text)))
