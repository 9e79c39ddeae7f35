"""What a method's YAML says of itself on one suite's tasks, and a subnet that stands in a file of its own."""

from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from karst_bench.errors import UserError

# The published subnets of NOAH are lists below RETRAIN, by these names.
PUBLISHED = {"vpt": "VISUAL_PROMPT_DIM", "lora": "LORA_DIM", "adapter": "ADAPTER_DIM"}


def with_suite(cfg: DictConfig, given: Set[str]) -> DictConfig:
    """The configuration with `method.suites.<suite of the dataset>` put over the method's own values, below the keys of the
    command line, and `suites` gone: a run says only what holds for it. A file in `method.subnet` becomes its content; epochs
    and lr of `method.stages.train` become the recipe's.

    Raises: UserError for a second method that searches, and for a subnet file that holds none.
    """
    if cfg.also.get("stages"):
        raise UserError(f"also={cfg.also.name} searches with stages of its own, of which a run has one set; "
                        f"make it the method: method={cfg.also.name} also={cfg.method.name}")  # fmt: skip
    OmegaConf.set_struct(cfg, False)
    _apply(cfg, cfg.method.pop("suites", None) or {}, given)
    subnet = cfg.method.get("subnet")
    if isinstance(subnet, str):
        cfg.method.subnet = read_subnet(Path(subnet))
    if subnet is not None:
        cfg.method.stages = {}  # nothing to search: stages that do not happen are no part of the run
    train = (cfg.method.get("stages") or {}).get("train") or {}
    for key in ("epochs", "lr"):
        if train.get(key) is not None and f"recipe.{key}" not in given:
            cfg.recipe[key] = train[key]
    OmegaConf.set_struct(cfg, True)
    return cfg


def read_subnet(path: Path) -> dict[str, object]:
    """{vpt, lora, adapter}: sizes, from a file that says so, or from one of NOAH's published ones.

    Raises: UserError where the file is missing or says neither.
    """
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"method.subnet={path}: {error}; give a YAML file with lists vpt, lora and adapter") from error
    if isinstance(found, Mapping) and isinstance(published := found.get("RETRAIN"), Mapping):
        found = {kind: published.get(name) for kind, name in PUBLISHED.items()}
    if not isinstance(found, Mapping) or not set(PUBLISHED) <= set(found):
        raise UserError(f"method.subnet={path} names no vpt, lora and adapter, nor RETRAIN with "
                        f"{', '.join(PUBLISHED.values())}; give a file that does")  # fmt: skip
    return {kind: found[kind] for kind in PUBLISHED}


def _apply(cfg: DictConfig, suites: Mapping[str, Any], given: Set[str]) -> None:
    for key, value in _leaves(suites.get(cfg.dataset.suite) or {}, "method"):
        if not any(key == word or key.startswith(f"{word}.") for word in given - {"method"}):
            OmegaConf.update(cfg, key, value)


def _leaves(node: Mapping[str, object], prefix: str) -> Iterator[tuple[str, object]]:
    for key, value in node.items():
        if isinstance(value, Mapping | DictConfig):
            yield from _leaves(value, f"{prefix}.{key}")
        else:
            yield f"{prefix}.{key}", value
