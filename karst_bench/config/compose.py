"""The configuration: typed shared keys, composition for the Python API, and errors that name the nearest valid key."""

import difflib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.errors import ConfigCompositionException, HydraException
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from karst_bench import compat
from karst_bench.errors import UserError
from karst_bench.files import packaged

ACTIONS = ("train", "describe", "evaluate", "predict", "merge")
CHOICES: dict[str, tuple[str, ...]] = {
    "action": ACTIONS, "device": ("auto", "cpu", "cuda"), "precision": ("bf16", "fp32"),
    "normalization": ("model", "half", "imagenet", "none"), "format": ("text", "json", "csv"), "suite": ("vtab", "mini"),
}  # fmt: skip
GROUPS = ("method", "also", "extra", "backbone", "dataset", "recipe", "protocol", "tuned", "tracker", "sweep")
SINGLE = tuple(group for group in GROUPS if group != "tracker")  # several trackers may watch one run


@dataclass
class Shared:
    """Types of the shared keys; their values live in conf/config.yaml alone."""

    paths: Any
    recipe: Any
    protocol: Any
    backbone: Any
    extra: Any
    dataset: Any
    method: Any
    also: Any
    tuned: Any
    tracker: Any
    sweep: Any
    experiment: Any
    seed: int
    action: str
    device: str
    precision: str
    threads: int | None
    normalization: str
    recompute: bool
    compile: bool
    suite: str | None
    save_adapter: bool
    adapter: str | None
    images: str | None
    out: str | None
    topk: int
    format: str
    force: bool
    dry_run: bool
    debug: bool
    cache_gb: float


def config_dir() -> Path:
    """The conf/ folder: inside the installed package, or at the root of a checkout."""
    return packaged("conf")


def register(store: ConfigStore) -> ConfigStore:
    """Puts into a store what conf/ does not hold: the schema, and every method a second time, as `also=`."""
    store.store(name="base_schema", node=_required(Shared))
    for method in options("method"):
        store.store(group="also", name=method, node={"defaults": [{"/method@_here_": method}]})
    return store


def compose(overrides: Sequence[str] = ()) -> DictConfig:
    """The configuration that `python run.py <overrides>` runs with. Raises: UserError for a bad key, option or value."""
    with friendly(overrides):
        cfg = _composed(overrides)
    return finish(cfg, overrides)


def finish(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """Checks the shared choices and puts tuned values in, below the command line: recipe < tuned < command line."""
    if "name" not in cfg.also:  # the option is a whole configuration: the method and its recipe
        second = next((word for word in overrides if word.startswith("also=")), "also")
        first = second.replace("also", "method")
        raise UserError(f"{second} brings its own optimiser, which a run has one of; make it the method: {first}")
    if cfg.suite is None:
        cfg.suite = "mini" if cfg.dataset.suite == "mini" else "vtab"
    for key in CHOICES:
        check_choice(key, cfg[key])
    if cfg.seed < 0:
        raise UserError(f"seed={cfg.seed} must be 0 or more")
    if cfg.dataset.get("shots") is not None and cfg.dataset.shots not in (1, 2, 4, 8, 16):
        raise UserError(f"dataset.shots={cfg.dataset.shots} has no split list; use 1, 2, 4, 8 or 16")
    given = {override.partition("=")[0].lstrip("+~") for override in overrides}
    return _with_tuned(_with_own_backbone(cfg, given), given)


def check_choice(key: str, value: object) -> None:
    """Raises: UserError where a shared key has none of its values."""
    choices = CHOICES[key]
    if value not in choices:
        raise UserError(f"{key}={value} is not a choice; use one of {', '.join(choices)}{nearest(str(value), choices)}")


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The resolved configuration as plain data. Raises: UserError where a value is missing."""
    try:
        resolved = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UserError(f"the configuration is incomplete: {str(error).splitlines()[0]}") from error
    assert isinstance(resolved, dict)
    resolved.pop("hydra", None)
    return {str(key): value for key, value in resolved.items()}


@contextmanager
def friendly(overrides: Sequence[str]) -> Iterator[None]:
    """Turns Hydra's errors into one paragraph: what is wrong, the nearest valid name, the valid ones."""
    for override in overrides:
        key, _, value = override.partition("=")
        if value.startswith("[") and key.lstrip("+~") in SINGLE:
            raise UserError(
                f"{override}: {key} takes one option. Two methods on one backbone: method=lora also=vpt_deep; "
                f"several runs: -m {key}={value.strip('[]')}"
            )
    try:
        yield
    except (HydraException, ConfigCompositionException, OmegaConfBaseException, ValueError) as error:
        raise UserError(_explain(error, overrides)) from error


def options(group: str) -> list[str]:
    """Every option of a config group, nested ones with their folder; files named _* are shared parts; `also` takes any method."""
    root = config_dir() / ("method" if group == "also" else group)
    found = root.glob("*.yaml") if group == "tuned" else root.rglob("*.yaml")  # tuned/<kind>/ holds tables, not options
    return sorted(str(path.relative_to(root).with_suffix("")) for path in found if not path.name.startswith("_"))


def _composed(overrides: Sequence[str]) -> DictConfig:
    return compat.compose([config_dir()], "config", overrides, register(compat.private_store()))


def _required(schema: type) -> dict[str, Any]:
    return OmegaConf.structured(schema(**{field.name: MISSING for field in fields(schema)}))


def _explain(error: Exception, overrides: Sequence[str]) -> str:
    text = " ".join(str(cause) for cause in (error, error.__cause__) if cause)
    if match := re.search(r"Could not find '([^']+)'|Could not override '([^']+/[^']*)'", text):
        return _unknown_option(match.group(1) or match.group(2))
    if match := re.search(r"In 'config': Could not find '?([\w/]+)", text):
        return _unknown_option(match.group(1))
    if match := re.search(r"(?:full_key|Could not override '?)[: ]*'?([\w.@/]+)", text):
        return _unknown_key(match.group(1), text, overrides)
    hint = "; several values need -m in front: python run.py -m seed=0,1,2" if "Ambiguous" in text else ""
    return f"the command line does not make a configuration: {text.splitlines()[0]}{hint}"


def _unknown_option(path: str) -> str:
    group = next((g for g in GROUPS if path.startswith(f"{g}/")), path.partition("/")[0])
    option, valid = path.removeprefix(f"{group}/"), options(group)
    return f"{group}={option} is unknown{nearest(option, valid)}. Valid: {', '.join(valid)}"


def _unknown_key(key: str, text: str, overrides: Sequence[str]) -> str:
    if "could not be converted" in text or "Value '" in text:
        return f"{key}: {text.splitlines()[0]}"
    chosen = [word for word in overrides if word.partition("=")[0] in GROUPS and "," not in word]
    keys = list(_keys(_composed(chosen)))
    parent = key.rpartition(".")[0]
    siblings = [k for k in keys if k.startswith(f"{parent}.")] if parent else []
    shown = f". Keys of {parent}: {', '.join(k.removeprefix(parent + '.') for k in siblings)}" if siblings else ""
    return f"unknown key {key}{nearest(key, keys)}{shown}"


def _keys(cfg: DictConfig, prefix: str = "") -> Iterator[str]:
    for key in cfg:
        if key == "about":  # what a method or dataset is called and stands for: nothing to be set
            continue
        name = f"{prefix}{key!s}"
        yield name
        if OmegaConf.is_dict(cfg._get_node(key)):
            yield from _keys(cfg[key], f"{name}.")


def nearest(word: str, valid: Sequence[str]) -> str:
    """`; did you mean X?` with the valid name that is most like the word, or nothing."""
    tails = {name.rpartition("/")[2]: name for name in valid}
    near = [name for name in valid if name.lower() == word.lower()]
    near = near or difflib.get_close_matches(word, valid, 1, 0.6)
    near = near or [tails[t] for t in difflib.get_close_matches(word, list(tails), 1, 0.6)]
    return f"; did you mean {near[0]}?" if near else ""


def _with_own_backbone(cfg: DictConfig, given: set[str]) -> DictConfig:
    """backbone.timm_name=X is a backbone of its own: X's name, input size and statistics, not those it replaced."""
    if "backbone.timm_name" in given:
        own = {
            "name": cfg.backbone.timm_name,
            "model_args": {},
            "input_size": None,
            "mean": None,
            "std": None,
            "tag": None,
        }
        for key, value in own.items():
            if f"backbone.{key}" not in given and key in cfg.backbone:
                cfg.backbone[key] = value
    return cfg


def _with_tuned(cfg: DictConfig, given: set[str]) -> DictConfig:
    """tuned/<kind>/<method>.yaml: {dataset: {key: value}}; keys on the command line stay as given."""
    kind = cfg.tuned.name
    if kind == "none":
        return cfg
    source, values = None, None
    for folder in (config_dir(), Path(cfg.paths.results)):  # what a user's own search found comes before what is committed
        file = folder / "tuned" / kind / f"{cfg.method.name}.yaml"
        entries = OmegaConf.to_container(OmegaConf.load(file)) if file.is_file() else {}
        assert isinstance(entries, dict)
        found = _of_family(entries, cfg).get(cfg.dataset.name)
        if source is None or found is not None:
            source, values = entries.get("source"), found
    applied = {key: value for key, value in (values or {}).items() if key not in given}
    OmegaConf.set_struct(cfg, False)
    for key, value in applied.items():
        OmegaConf.update(cfg, key, value)
    cfg.tuned = {"name": kind, "source": source, "values": applied, "listed": bool(values)}
    OmegaConf.set_struct(cfg, True)
    return cfg


def _of_family(entries: dict[Any, Any], cfg: DictConfig) -> dict[str, Any]:
    """A table's entries for the backbone's family: one family stands at its top, the other under its name."""
    family = "swin" if str(cfg.backbone.timm_name).startswith("swin") else "vit"
    table: dict[str, Any] = entries if entries.get("family", family) == family else entries.get(family, {})
    return table
