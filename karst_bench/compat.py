"""What the suite needs of Hydra and its public interface does not give: composing without the process-wide state."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra._internal.core_plugins.structured_config_source import StructuredConfigSource
from hydra._internal.utils import get_args_parser
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.types import RunMode
from hydra.version import VersionBase, setbase
from omegaconf import DictConfig, open_dict

VERSION_BASE = "1.3"


def private_store() -> ConfigStore:
    """A store of configuration nodes that holds Hydra's own; the process-wide one belongs to whoever called us."""
    store = object.__new__(ConfigStore)  # its metaclass would hand out the one instance there is
    store.repo = {"hydra": ConfigStore.instance().repo["hydra"]}
    return store


class _Repository(ConfigRepository):
    """Hydra's configuration sources with another store of nodes, also after hydra.searchpath changed them."""

    def __init__(self, search_path: ConfigSearchPath, store: ConfigStore) -> None:
        self.store = store
        super().__init__(search_path)

    def __deepcopy__(self, memo: dict[int, object]) -> "_Repository":
        """Hydra copies a repository before it changes its list of sources, and would copy every node of the store with it."""
        twin = object.__new__(_Repository)
        twin.__dict__ |= self.__dict__
        return twin

    def initialize_sources(self, config_search_path: ConfigSearchPath) -> None:
        super().initialize_sources(config_search_path)
        schema = cast(StructuredConfigSource, self.get_schema_source())  # Hydra loads the class a second time
        schema.store = self.store


def compose_apart(folders: Sequence[Path], name: str, overrides: Sequence[str], store: ConfigStore) -> DictConfig:
    """Composes `name` of the folders and the store as Hydra does, and leaves Hydra's process-wide state as it was.

    Raises: Hydra's and OmegaConf's errors.
    """
    path = ConfigSearchPathImpl()
    path.append("hydra", "pkg://hydra.conf")
    for folder in folders:
        path.append("main", f"file://{folder}")
    path.append("schema", "structured://")
    Plugins.instance()  # makes the kinds of sources known
    loader = ConfigLoaderImpl(path)
    loader.repository = _Repository(path, store)
    with _version_base():
        cfg = loader.load_configuration(name, ["hydra.job.name=karst_bench", *overrides], RunMode.RUN, from_shell=False)
    with open_dict(cfg):
        del cfg["hydra"]
    return cfg


@contextmanager
def _version_base() -> Iterator[None]:
    state = VersionBase.instance()
    kept = state.version_base
    setbase(VERSION_BASE)
    try:
        yield
    finally:
        state.version_base = kept


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """(flags with their values, overrides) of a Hydra command line: `--cfg job seed=1` -> ([--cfg, job], [seed=1]).

    Raises: SystemExit with code 2, after a usage line on stderr, for a flag that Hydra has not.
    """
    overrides = list(get_args_parser().parse_intermixed_args(list(arguments)).overrides)
    flags, words = [], list(overrides)
    for argument in arguments:
        if words and argument == words[0]:
            words.pop(0)
        else:
            flags.append(argument)
    return flags, overrides
