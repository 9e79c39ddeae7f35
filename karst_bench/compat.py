"""What the suite needs of Hydra and its public interface does not give: composing without the process-wide state, and fast.

A sweep's plan composes the same files dozens of times: a text is parsed once, options that were put together before are
not put together again while their files stay as they are, and Hydra's own node is left out.
"""

import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Self, cast

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository, ConfigRepository
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.core_plugins.structured_config_source import StructuredConfigSource
from hydra._internal.defaults_list import create_defaults_list
from hydra._internal.utils import get_args_parser
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.default_element import GroupDefault, InputDefault
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import ConfigCompositionException
from hydra.plugins.config_source import ConfigResult
from hydra.types import RunMode
from hydra.version import VersionBase, setbase
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from karst_bench import files
from karst_bench.yaml_text import loaded, text_of

VERSION_BASE = "1.3"


def private_store() -> ConfigStore:
    """A store of configuration nodes that holds Hydra's own; the process-wide one belongs to whoever called us."""
    store = object.__new__(ConfigStore)  # its metaclass would hand out the one instance there is
    store.repo = {"hydra": ConfigStore.instance().repo["hydra"]}
    return store


def prefer_own_options(group: str, names: Sequence[str]) -> None:
    """Takes out of Hydra's store what its plug-ins put there under names that a file of conf/ has too (hydra/launcher=...); it
    would hold the file to the plug-in's keys."""
    Plugins.instance()  # whoever loads the plug-ins later would put it there again
    node = ConfigStore.instance().repo
    for part in group.split("/"):
        node = node.get(part, {})
    for name in names:
        node.pop(f"{name}.yaml", None)


class _Files(FileConfigSource):
    """A folder of YAML, read as yaml_text.py reads them."""

    def load_config(self, config_path: str) -> ConfigResult:
        text = text_of(file := Path(self.path, self._normalize_file_name(config_path)))
        where, header = f"{self.scheme()}://{self.path}", self._get_header_dict(text[:512])
        return ConfigResult(self.provider, where, loaded(text, file), header)


class _Repository(ConfigRepository):
    """Hydra's configuration sources with another store of nodes, also after hydra.searchpath changed them."""

    def __init__(self, search_path: ConfigSearchPath, store: ConfigStore) -> None:
        self.store = store
        super().__init__(search_path)

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        """Hydra copies a repository before it changes its list of sources, and would copy every node of the store with it."""
        twin = object.__new__(type(self))
        twin.__dict__ |= self.__dict__
        return twin

    def initialize_sources(self, config_search_path: ConfigSearchPath) -> None:
        super().initialize_sources(config_search_path)
        self.sources = [_Files(s.provider, s.path) if s.scheme() == "file" else s for s in self.sources]
        schema = cast(StructuredConfigSource, self.get_schema_source())  # Hydra loads the class a second time
        schema.store = self.store


class _RepositoryWithoutHydra(_Repository):
    """The same sources without Hydra's own node: half the work of composing, and no part of what is composed."""

    def load_config(self, config_path: str) -> ConfigResult | None:
        found = super().load_config(config_path)
        if found is not None:
            if isinstance(found.config, DictConfig) and "hydra" in found.config:
                del found.config["hydra"]
            found.defaults_list = [default for default in found.defaults_list or () if not _is_hydras(default)]
        return found


def compose_apart(
    folders: Sequence[Path], name: str, overrides: Sequence[str], store: ConfigStore, stamp: str | None = None
) -> DictConfig:
    """Composes `name` of the folders and the store as Hydra does, and leaves Hydra's process-wide state as it was.

    A store is not written to after its first use: what the options chosen put together is kept for the next command line.
    stamp: the folders', where it is known (files.tree_stamp).
    Raises: Hydra's and OmegaConf's errors.
    """
    Plugins.instance()  # makes the kinds of sources known
    with _version_base():
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        if not any(override.is_hydra_override() for override in parsed):
            return _composed(_Kept(tuple(folders), stamp or files.tree_stamp(folders), store), name, parsed)
        path = _search_path(folders, with_hydra=True)
        loader = ConfigLoaderImpl(path)
        loader.repository = _Repository(path, store)
        cfg = loader.load_configuration(name, ["hydra.job.name=karst_bench", *overrides], RunMode.RUN, from_shell=False)
        with open_dict(cfg):
            del cfg["hydra"]
        return cfg


class _Kept(NamedTuple):
    """What decides the options: folders, their files' sizes and times, and the store."""

    folders: tuple[Path, ...]
    stamp: str
    store: ConfigStore


def _composed(kept: _Kept, name: str, overrides: Sequence[Override]) -> DictConfig:
    """What ConfigLoaderImpl.load_configuration does, but for the node `hydra`; first the options, then single values."""
    ConfigLoaderImpl.validate_sweep_overrides_legal(list(overrides), RunMode.RUN, from_shell=False)
    choices: list[Override] = []
    values: list[Override] = []
    for override in overrides:
        of_group = not isinstance(override.value(), dict) and _group_exists(kept, override.key_or_group)
        (choices if of_group else values).append(override)
    cfg = cast(DictConfig, pickle.loads(_options_together(kept, name, tuple(str(one.input_line) for one in choices))))
    try:
        ConfigLoaderImpl._apply_overrides_to_config(values, cfg)
    except OmegaConfBaseException as error:
        raise ConfigCompositionException from error
    return cfg


@lru_cache(maxsize=2048)
def _group_exists(kept: _Kept, group: str) -> bool:
    return _loader(kept).repository.group_exists(group)


@lru_cache(maxsize=256)
def _options_together(kept: _Kept, name: str, choices: tuple[str, ...]) -> bytes:
    """The configuration of these choices, pickled: whoever composes writes into its own."""
    loader = _loader(kept)
    loader.ensure_main_config_source_available()
    repository = CachingConfigRepository(loader.repository)
    parsed = OverridesParser.create().parse_overrides(list(choices))
    try:
        found = create_defaults_list(repository, name, parsed, prepend_hydra=False, skip_missing=False)
        cfg = loader._compose_config_from_defaults_list(found.defaults, repository)
    except OmegaConfBaseException as error:
        raise ConfigCompositionException from error
    OmegaConf.set_struct(cfg, True)
    return pickle.dumps(cfg)


@lru_cache(maxsize=4)
def _loader(kept: _Kept) -> ConfigLoaderImpl:
    path = _search_path(kept.folders, with_hydra=False)
    loader = ConfigLoaderImpl(path)
    loader.repository = _RepositoryWithoutHydra(path, kept.store)
    return loader


def _search_path(folders: Sequence[Path], *, with_hydra: bool) -> ConfigSearchPath:
    path = ConfigSearchPathImpl()
    if with_hydra:
        path.append("hydra", "pkg://hydra.conf")
    for folder in folders:
        path.append("main", f"file://{folder}")
    path.append("schema", "structured://")
    return path


def _is_hydras(default: InputDefault) -> bool:
    return isinstance(default, GroupDefault) and str(default.group).startswith("hydra/")


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
