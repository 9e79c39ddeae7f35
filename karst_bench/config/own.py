"""A set of one's own in a configuration: its name, its classes and what they are called, read from where it lies."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from karst_bench.config.option_files import options
from karst_bench.errors import UserError
from karst_bench.own_sets import own_class_names, set_name


def with_own_set(cfg: DictConfig) -> DictConfig:
    """The configuration with dataset.name, task, title, classes and label_names of the set at dataset.root; others unchanged.

    Raises: UserError where nothing lies there, for a name that is another set's, and for values that cannot be.
    """
    dataset = cfg.dataset
    if dataset.get("source") != "own" or dataset.get("root") is None:
        return cfg
    root = Path(str(dataset.root)).expanduser()
    names = own_class_names(root)
    if len(names) < 2:
        raise UserError(f"dataset.root={root} has {len(names)} class{'es' if len(names) != 1 else ''}; two at least are needed")
    if dataset.classes not in (None, len(names)):
        raise UserError(f"dataset.classes={dataset.classes}, but {root} has {len(names)}: {', '.join(names)[:200]}; leave it out")
    name = str(dataset.name or set_name(root))
    name = name if "/" in name else f"own/{name}"
    if name in options("dataset"):
        raise UserError(f"dataset.name={name} is a set of the suite; give this one a name of its own")
    _check_sizes(dataset)
    task = name.rpartition("/")[2]
    OmegaConf.set_struct(cfg, False)
    cfg.dataset = {**dataset, "root": str(root.resolve()), "name": name, "task": task, "title": dataset.title or task,
                   "classes": len(names), "label_names": list(names)}  # fmt: skip
    OmegaConf.set_struct(cfg, True)
    return cfg


def _check_sizes(dataset: DictConfig) -> None:
    for key, least in (("shots", 1), ("limit", 2), ("split_seed", 0)):
        value = dataset.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            raise UserError(f"dataset.{key}={value} must be null or a whole number, {least} or more")
    if dataset.get("shots") is not None and dataset.get("limit") is not None:
        raise UserError(f"dataset.shots={dataset.shots} and dataset.limit={dataset.limit}: give one of them")
    for key in ("val_share", "test_share"):
        value = dataset.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
            raise UserError(f"dataset.{key}={value} must lie between 0 and 1")
