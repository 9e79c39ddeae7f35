"""What no value of a configuration may be, said where it composes: nothing is read, built or allocated before."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from karst_bench.errors import UserError
from karst_bench.names import hidden_character, is_plain, texts

SHARED = {
    "seed": (0, 2**32 - 1),
    "threads": (1, 4096),
    "topk": (1, 100_000),
    "cache_gb": (0, 1e6),
    "lease_s": (1, 7 * 86_400),
    "checkpoint_s": (0, 7 * 86_400),
    "recipe.epochs": (1, 100_000),
    "recipe.batch": (1, 1_000_000),
    "backbone.input_size": (1, 4096),
    "backbone.model_args.depth": (1, 1000),
    "dataset.classes": (1, 1_000_000),
    "dataset.sizes.train800": (1, 10_000_000),
    "dataset.sizes.val200": (1, 10_000_000),
    "dataset.sizes.test": (1, 10_000_000),
}
GROUPS = ("method", "also", "extra", "regularizer")
WIDTH = 65_536  # of a method's ranks, kernels, prompts; the widest layer of a ViT-22B has 24,576
BUDGET = 10**10  # of what a method may count in scalars
NAMED = (*GROUPS, "backbone", "dataset", "recipe", "protocol", "tuned", "augment")
LONGEST = 4096  # characters of a text


def check_limits(values: Mapping[str, Any]) -> None:
    """Raises: UserError for a number beyond its bounds, a name that is none, an empty path, hidden characters in a text."""
    for key, (least, most) in SHARED.items():
        _check_number(key, _at(values, key), least, most)
    for group in GROUPS:
        for key, number in _numbers(values.get(group), group):
            most = BUDGET if "budget" in key or isinstance(number, float) else WIDTH
            _check_number(key, number, -most, most)
    for key, text in texts({key: value for key, value in values.items() if key != "hydra"}, ""):
        if (code := hidden_character(text)) is not None:
            raise UserError(f"{key} holds the character {code}, which is not seen or turns others around: {text[:60]!r}")
        if len(text) > LONGEST:
            raise UserError(f"{key} has {len(text)} characters; at most {LONGEST} can be meant")
    for group in NAMED:
        name = _at(values, f"{group}.name")
        if name is not None and not is_plain(name):
            raise UserError(
                f"{group}.name={name!r} cannot be a name: at most 128 letters, digits and _.+:@/- without .., starting with a "
                "letter or digit"
            )
    _check_backbone(values["backbone"])
    white = _at(values, "dataset.white")
    if white is not None and not (isinstance(white, int | float) and _is_finite(white) and white > 0):
        raise UserError(f"dataset.white={white} must be null or a number above 0, the level of deep pictures that is white")
    for key, path in values["paths"].items():
        if path is None or not str(path).strip():
            raise UserError(f"paths.{key} is empty; give a folder, or leave paths.{key}= out for the default")


def _check_backbone(backbone: Mapping[str, Any]) -> None:
    for key in ("mean", "std"):
        given = backbone.get(key)
        if given is not None and not (isinstance(given, list) and len(given) == 3 and all(map(_is_finite, given))):
            raise UserError(f"backbone.{key}={given} must be three numbers, one a channel, or null")
        if given is not None and key == "std" and min(given) <= 0:
            raise UserError(f"backbone.std={given} must be above 0, as pictures are divided by it")
    arguments = backbone.get("model_args")
    if arguments is not None and not isinstance(arguments, Mapping):
        raise UserError(f"backbone.model_args={arguments} must be key: value pairs for timm, or null")


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_number(key: str, value: object, least: float, most: float) -> None:
    if value is None or isinstance(value, bool) or not isinstance(value, int | float):
        return  # other checks say what type it must be
    if not least <= value <= most:
        side, bound = ("at least", least) if value < least else ("at most", most)
        raise UserError(f"{key}={value} must be {side} {bound:.0f}" if math.isfinite(value) else f"{key}={value} is no number")


def _at(values: Mapping[str, object], dotted: str) -> object:
    node: object = values
    for key in dotted.split("."):
        node = node.get(key) if isinstance(node, Mapping) else None
    return node


def _numbers(node: object, where: str) -> Iterator[tuple[str, int | float]]:
    if isinstance(node, Mapping):
        for key, item in node.items():
            yield from _numbers(item, f"{where}.{key}")
    elif isinstance(node, list | tuple):
        for item in node:
            yield from _numbers(item, where)
    elif isinstance(node, int | float) and not isinstance(node, bool):
        yield where, node
