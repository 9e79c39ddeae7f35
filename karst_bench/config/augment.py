"""The group `augment` (what is done) and recipe.augment (its name, which ids are made of): one choice, checked here."""

import hashlib
import json
import re
from collections.abc import Mapping, Set

from omegaconf import DictConfig, OmegaConf

from karst_bench.config.option_files import config_dir, option_config
from karst_bench.errors import UserError

KEYS = ("name", "canvas", "crop", "flip", "policy", "erase", "mixup", "cutmix")
POLICY = re.compile(r"rand(-[a-z]+[0-9][0-9.]*)*")  # timm passes over sections without a number


def with_augment(cfg: DictConfig, given: Set[str]) -> DictConfig:
    """The configuration with recipe.augment naming the augmentation exactly.

    A file of conf/augment is its name. With other values, or under another name, a hash of the values is appended, so
    that two augmentations never share an id. recipe.augment on the command line must say the same as augment does.
    Raises: UserError for values out of range and for two names that differ.
    """
    found = OmegaConf.to_container(cfg.augment, resolve=True)
    assert isinstance(found, dict)
    values = {str(key): value for key, value in found.items()}
    check_augment(values)
    name = exact_name(values)
    if "recipe.augment" in given:
        if cfg.recipe.augment != name:
            raise UserError(
                f"recipe.augment={cfg.recipe.augment}, but the augmentation is {name}: choose it with"
                f" augment={cfg.recipe.augment}; its name goes into the recipe by itself"
            )
    elif cfg.recipe.augment != name:
        OmegaConf.update(cfg, "recipe.augment", name)
    return cfg


def exact_name(values: Mapping[str, object]) -> str:
    """The name of a file of conf/augment that has these very values; else the name given, and 8 digits of their SHA-256."""
    name = str(values["name"])
    file = config_dir() / "augment" / f"{name}.yaml"
    if file.is_file() and _canonical(option_config("augment", name)) == _canonical(values):
        return name
    return f"{name}-{hashlib.sha256(_canonical(values).encode()).hexdigest()[:8]}"


def _canonical(values: Mapping[str, object]) -> str:
    """One text per meaning: 1 and 1.0 are equal."""
    return re.sub(r"(?<![0-9.])([0-9]+)\.0(?![0-9])", r"\1", json.dumps(values, sort_keys=True))


def check_augment(values: Mapping[str, object]) -> None:
    """Raises: UserError for a missing or unknown key, or a value out of its range: which, both values, what is allowed."""
    if odd := sorted(values.keys() ^ set(KEYS)):
        raise UserError(f"augment={values.get('name')}: {', '.join(odd)} missing or unknown; its keys are {', '.join(KEYS)}")
    for key in ("flip", "erase"):
        _number(values, key, 0, 1, "a probability, 0 to 1")
    for key in ("mixup", "cutmix"):
        _number(values, key, 0, 1000, "0 (off) or the a of Beta(a, a)")
    if values["canvas"] is not None:
        _number(values, "canvas", 1, 8, "null, or 1 to 8 times the input's side")
    if values["policy"] is not None and not POLICY.fullmatch(str(values["policy"])):
        raise UserError(f"augment.policy={values['policy']} must be null or in timm's form, such as rand-m9-mstd0.5-inc1")
    crop = values["crop"]
    if crop is not None and not (isinstance(crop, Mapping) and set(crop) == {"scale", "ratio"} and _pair(crop["scale"], 1)
                                 and _pair(crop["ratio"], 1000)):  # fmt: skip
        raise UserError(
            f"augment.crop={crop} must be null or {{scale: [least, greatest], ratio: [least, greatest]}}, above 0,"
            " in this order, scale at most 1"
        )


def _number(values: Mapping[str, object], key: str, least: float, most: float, meaning: str) -> None:
    value = values[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise UserError(f"augment.{key}={value} must be {meaning}")


def _pair(pair: object, most: float) -> bool:
    if not isinstance(pair, list) or len(pair) != 2 or any(isinstance(v, bool) or not isinstance(v, int | float) for v in pair):
        return False
    least, greatest = float(pair[0]), float(pair[1])
    return 0 < least <= greatest <= most
