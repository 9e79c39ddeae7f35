"""One resolved configuration: typed, checked and frozen, before anything heavy is imported."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from karst_bench.config.limits import check_limits
from karst_bench.config.messages import unresolved
from karst_bench.engine.recipe import Recipe
from karst_bench.errors import UserError, nearest
from karst_bench.own_sets import FORMS

CHOICES: dict[str, tuple[str, ...]] = {
    "action": ("train", "describe", "evaluate", "predict", "merge", "export", "diagnose"),
    "device": ("auto", "cpu", "cuda"),
    "precision": ("bf16", "fp32", "auto"),
    "speed": ("auto", "eager", "graph", "compile"),
    "normalization": ("model", "half", "imagenet", "none"),
    "format": ("text", "json", "csv", "onnx", "torch", "folder", "peft"),
    "suite": ("vtab", "mini"),
}
DATASET_KEYS = ("name", "task", "suite", "group", "classes")  # without which no run says what it was
SHOTS = (1, 2, 4, 8, 16)


class Node(dict[str, Any]):
    """A group of the configuration (method, dataset, ...): a dict that nobody writes into."""

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("a resolved configuration is never changed; make another with Settings.replace(...)")

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[Any, ...]:
        return Node, (dict(self),)


@dataclass(frozen=True)
class Paths:
    """Where things lie: data sets, backbone weights, records and tuned tables, other outputs, decoded images."""

    data: Path
    weights: Path
    results: Path
    outputs: Path
    cache: Path


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything a run depends on. Groups are read-only dicts as their YAML files say; shared keys are typed."""

    method: Node
    also: Node
    extra: Node
    regularizer: Node
    backbone: Node
    dataset: Node
    recipe: Recipe
    augment: Node
    protocol: Node
    tuned: Node
    tracker: Node
    sweep: Any
    report: Node  # of tables: nothing that a run does
    paths: Paths
    seed: int
    action: str
    device: str
    precision: str
    threads: int | None
    normalization: str
    recompute: bool
    speed: str
    suite: str
    save_adapter: bool
    diagnostics: bool
    save_predictions: bool
    adapter: str | None
    allow_other_backbone: bool
    images: str | None
    out: str | None
    topk: int
    format: str
    cache_gb: float
    lease_s: float
    checkpoint_s: float
    force: bool
    dry_run: bool
    debug: bool

    def replace(self, **changes: Any) -> "Settings":
        """Another configuration that differs in these fields."""
        return dataclasses.replace(self, **{key: _frozen(value) for key, value in changes.items()})

    def as_config(self) -> dict[str, Any]:
        """Plain data, as a record stores it and an id is made from; what concerns reports alone is left out."""
        config = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "report"}
        paths = {key: str(value) for key, value in vars(self.paths).items()}
        return {key: _plain(value) for key, value in config.items()} | {
            "recipe": vars(self.recipe).copy(),
            "paths": paths,
        }

    @property
    def title(self) -> str:
        """`lora+vpt_deep on vtab/pets (vit_b16, seed 0)`."""
        return run_title(vars(self))


def run_title(config: Mapping[str, Any]) -> str:
    """What a configuration's run is called, resolved or as a record holds it, which may be older than also= or regularizer=."""
    chosen = [(config.get(node) or {}).get("name", "none") for node in ("also", "regularizer")]
    names = [config["method"]["name"], *(name for name in chosen if name != "none")]
    return f"{'+'.join(names)} on {config['dataset']['name']} ({config['backbone']['name']}, seed {config['seed']})"


def resolve(cfg: DictConfig) -> Settings:
    """The settings of a composed configuration. Raises: UserError for a missing value or one that is no choice."""
    try:
        resolved = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UserError(unresolved(error)) from error
    assert isinstance(resolved, dict)
    values = {str(key): value for key, value in resolved.items() if key != "hydra"}
    _check(values)
    values["recipe"] = recipe_of(values["recipe"])
    values["paths"] = Paths(**{key: Path(str(value)) for key, value in values["paths"].items()})
    return Settings(**{key: _frozen(value) for key, value in values.items()})


def recipe_of(node: Mapping[str, Any]) -> Recipe:
    """A recipe from its group. Raises: UserError for keys that are missing or unknown, and for bad values."""
    known = {field.name for field in dataclasses.fields(Recipe)}
    if odd := sorted(node.keys() ^ known):
        raise UserError(
            f"recipe={node.get('name')}: {', '.join(odd)} missing or unknown; its keys are {', '.join(sorted(known))}"
        )
    return Recipe(**node)


def check_choice(key: str, value: object) -> None:
    """Raises: UserError where a shared key has none of its values."""
    choices = CHOICES[key]
    if value not in choices:
        raise UserError(f"{key}={value} is not a choice; use one of {', '.join(choices)}{nearest(str(value), choices)}")


def _check(values: Mapping[str, Any]) -> None:
    for key in CHOICES:
        check_choice(key, values[key])
    check_limits(values)
    if values["speed"] == "compile" and values["recompute"]:
        raise UserError("speed=compile decides by itself what to recompute; leave out recompute=true")
    dataset = values["dataset"]
    if dataset.get("source") == "own":
        if dataset.get("root") is None:
            raise UserError(f"dataset=folder needs dataset.root=, one of {FORMS}")
        return
    needed = (*DATASET_KEYS, *(("folder",) if dataset.get("source") == "folder" else ()))
    lacking = [key for key in needed if dataset.get(key) is None]
    if dataset.get("source") == "tfds" and "builder" not in (dataset.get("tfds") or ()):
        lacking.append("tfds.builder")
    if lacking:
        raise UserError(f"dataset={dataset.get('name')}: its file does not say {', '.join(lacking)}; conf/dataset/vtab/dtd.yaml "
                        "shows every key, most of which come from its base, defaults: [vtab/_base@_here_, _self_]")  # fmt: skip
    shots = dataset.get("shots")
    if shots is not None and shots not in SHOTS:
        raise UserError(
            f"dataset.shots={shots} has no split list; use {', '.join(map(str, SHOTS[:-1]))} or {SHOTS[-1]}"
        )


def _frozen(value: Any) -> Any:
    if isinstance(value, Mapping):
        return Node({str(key): _frozen(item) for key, item in value.items()})
    return [_frozen(item) for item in value] if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value
