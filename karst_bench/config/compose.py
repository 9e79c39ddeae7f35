"""From overrides to a configuration: Hydra composes conf/ and the plug-ins' own; a typo fails here, with the nearest name."""

import dataclasses
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from karst_bench import compat
from karst_bench.config.adapters import adapter_words
from karst_bench.config.augment import with_augment
from karst_bench.config.messages import friendly
from karst_bench.config.option_files import config_dir, options, sweep_rows
from karst_bench.config.own import with_own_set
from karst_bench.config.places import native_precision, with_paths
from karst_bench.config.protocols import check_protocol
from karst_bench.config.settings import Settings, resolve
from karst_bench.config.suites import with_suite
from karst_bench.config.tuned import setting_words, tuned_entry, with_tuned
from karst_bench.config.words import given_keys, plain_words
from karst_bench.errors import UserError
from karst_bench.files import tree_stamp
from karst_bench.plugins import plugin_conf

OWN_BACKBONE: dict[str, object] = {"model_args": {}, "input_size": None, "mean": None, "std": None, "tag": None}


def register(store: ConfigStore) -> ConfigStore:
    """Puts into a store what conf/ has no file of: the schema, every method a second time as `also=`, and rows of sweeps."""
    store.store(name="base_schema", node=OmegaConf.structured(_Shared))
    for method in options("method"):
        store.store(group="also", name=method, node={"defaults": [{"/method@_here_": method}]})
    store.store(group="experiment", name="none", node={}, package="_global_")
    for row in sweep_rows():
        chosen = [{"override /method": row.method}, {"override /extra": row.extra}]
        folder, _, name = f"experiment/{row.name}".rpartition("/")
        store.store(group=folder, name=name, node={"defaults": chosen}, package="_global_")
    return store


def compose(overrides: Sequence[str] = ()) -> DictConfig:
    """The configuration that `python run.py <overrides>` runs with. Raises: UserError for a bad key, option or value."""
    overrides = plain_words(overrides)
    with friendly(overrides, composed, options):
        cfg = composed(overrides)
    return complete(cfg, overrides)


def settings_of(overrides: Sequence[str] = ()) -> Settings:
    """`compose`, resolved: typed, checked and frozen. Raises: UserError."""
    return resolve(compose(overrides))


def complete(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """Puts in what depends on the words given: a backbone and a set of one's own, what a method's YAML says of the dataset's
    suite, and a tuned setting (recipe < tuned < command line); paths and precision=auto become what they stand for.

    Raises: UserError for `also=` a method that brings its own optimiser, a named protocol with other
    fields, and a sweep, which is many configurations.
    """
    if "axes" in cfg.sweep:
        name = next(word for word in overrides if word.startswith("sweep="))
        raise UserError(f"{name} is many runs, not one configuration; karst_bench.config.sweeps.expand spells it out")
    if "name" not in cfg.also:  # the option is a whole configuration: the method and its recipe
        second = next((word for word in overrides if word.startswith("also=")), "also")
        first = second.replace("also", "method")
        raise UserError(f"{second} brings its own optimiser, which a run has one of; make it the method: {first}")
    if words := adapter_words(cfg := with_paths(cfg), overrides):
        overrides = plain_words([*overrides, *words])
        cfg = with_paths(composed(overrides))
    given = given_keys(overrides)
    cfg = with_own_set(cfg)  # before the tables, which know a set by its name
    entry = tuned_entry(_with_own_backbone(cfg, given))
    if words := setting_words(entry, given):
        cfg = with_own_set(with_paths(composed([*overrides, *words])))
    if cfg.suite is None:
        cfg.suite = "mini" if cfg.dataset.suite == "mini" else "vtab"
    protocol = OmegaConf.to_container(cfg.protocol)
    assert isinstance(protocol, dict)
    check_protocol({str(key): value for key, value in protocol.items()})
    cfg = with_suite(_with_own_backbone(cfg, given), given)
    if cfg.precision == "auto":
        cfg.precision = native_precision(cfg.device)
    return with_augment(with_tuned(cfg, entry, given), given)


def search_path() -> list[str]:
    """The override that puts the plug-ins' conf/ folders on Hydra's search path, where there are any."""
    folders = ",".join(f"'file://{folder}'" for folder in plugin_conf())
    return [f"hydra.searchpath=[{folders}]"] if folders else []


def composed(overrides: Sequence[str]) -> DictConfig:
    """What Hydra makes of the overrides, without its process-wide state; raises its own errors."""
    stamp = tree_stamp(folders := (config_dir(), *plugin_conf()))
    return compat.compose_apart(folders, "config", overrides, _store(folders, stamp), stamp)


@lru_cache(maxsize=4)
def _store(folders: tuple[Path, ...], stamp: str) -> ConfigStore:
    """A store of the suite's own for the options of these folders; whoever loads from it gets a copy."""
    return register(compat.private_store())


_SIMPLE = (int, float, str, bool, int | None, str | None)


def _schema() -> type:
    """The types of the shared keys from Settings; every value is missing, as they live in conf/config.yaml alone."""
    null_is_the_datasets = {"suite": str | None}
    types = {field.name: field.type for field in dataclasses.fields(Settings)} | null_is_the_datasets
    typed = [(name, kind if kind in _SIMPLE else Any, MISSING) for name, kind in types.items()]
    made = dataclasses.make_dataclass("_Shared", typed)
    made.__module__ = __name__  # where a configuration that was kept finds it
    return made


_Shared = _schema()


def _with_own_backbone(cfg: DictConfig, given: set[str]) -> DictConfig:
    """backbone.timm_name=X is a backbone of its own: X's name, input size and statistics, not those it replaced."""
    if "backbone.timm_name" in given:
        for key, value in ({"name": cfg.backbone.timm_name} | OWN_BACKBONE).items():
            if key == "model_args":
                cfg.backbone[key] = _said_arguments(cfg, given)
            elif f"backbone.{key}" not in given and key in cfg.backbone:
                cfg.backbone[key] = value
    return cfg


def _said_arguments(cfg: DictConfig, given: set[str]) -> dict[str, object]:
    """Of backbone.model_args what the words named; the rest was the other backbone's, into which Hydra merges it."""
    below = {key.removeprefix("backbone.model_args.").partition(".")[0] for key in given if key.startswith("backbone.model_args.")}
    return {str(key): value for key, value in (cfg.backbone.model_args or {}).items() if key in below}
