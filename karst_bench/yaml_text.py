"""YAML files as configuration nodes, each text parsed once; without Hydra, so that reports read conf/ without it."""

import io
import pickle
from functools import lru_cache
from pathlib import Path
from typing import cast

from omegaconf import DictConfig, OmegaConf


def load_yaml(path: Path) -> DictConfig:
    """OmegaConf.load of a file that holds a mapping; a text that was read before is not parsed again."""
    return loaded(path.read_text(encoding="utf-8"))


def loaded(text: str) -> DictConfig:
    """The mapping of a YAML text, a node of the caller's own."""
    return cast(DictConfig, pickle.loads(_parsed(text)))


@lru_cache(maxsize=256)
def _parsed(text: str) -> bytes:
    """Pickled: composing writes into what it gets, and a copy by deepcopy takes five times as long."""
    return pickle.dumps(OmegaConf.load(io.StringIO(text)))
