"""Builds the timm model a configuration names."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import timm
import torch
from torch import nn

from karst_bench.adapt.hub_name import hub_config, is_hub_name
from karst_bench.adapt.timm_compat import renamed_to
from karst_bench.adapt.timm_sites import classifiers
from karst_bench.adapt.weights import load_weights
from karst_bench.errors import UserError

HEAD_STD = 0.02


def build_backbone(
    backbone: Mapping[str, Any], *, classes: int, weights: Path | None, drop_path: float = 0.0, device: str = "cpu"
) -> nn.Module:
    """An unmodified timm model with a fresh head: weight trunc-normal 0.02, bias 0, as timm draws it.

    device="meta" gives shapes without memory. Draws from the global generator: seed it outside.
    Raises: UserError for a name timm does not know or arguments the model does not take.
    """
    name, arguments = built_with(backbone)
    _check_side(backbone.get("input_size"), arguments)
    try:
        with torch.device(device):
            net: nn.Module = timm.create_model(
                name, pretrained=False, num_classes=classes, drop_path_rate=drop_path, **arguments
            )
    except RuntimeError as error:
        raise UserError(f"backbone.timm_name={name}: {str(error).splitlines()[0]}. {_near(name)}") from error
    except (TypeError, ValueError, AssertionError, ArithmeticError) as error:
        raise UserError(f"backbone.model_args={arguments} does not fit {name}: {error}") from error
    if weights is not None:
        load_weights(net, weights)
    if device != "meta":
        draw_head(net)
    return net


def built_with(backbone: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """timm's name of the model, and all arguments that it is built with: those of the configuration, the hub's, the side."""
    name, arguments = str(backbone["timm_name"]), dict(backbone.get("model_args") or {})
    if is_hub_name(name):
        config = hub_config(name)
        name, arguments = config["architecture"], {**(config.get("model_args") or {}), **arguments}
    return name, arguments | _input_side(name, backbone, arguments)


def _input_side(name: str, backbone: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, int]:
    """img_size for a backbone whose configured input is not the size that timm builds it for."""
    side = backbone.get("input_size")
    if side is None or "img_size" in arguments:
        return {}
    config = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    return {} if config is None or config.input_size[-1] == side else {"img_size": int(side)}


def _check_side(side: int | None, arguments: Mapping[str, Any]) -> None:
    own = arguments.get("img_size")
    fixed = isinstance(own, int) and not arguments.get("dynamic_img_size") and arguments.get("strict_img_size", True)
    if fixed and side is not None and own != side:
        raise UserError(f"backbone.input_size={side} is not the backbone.model_args.img_size={own} that it is built for;"
                        f" give backbone.model_args.img_size={side} too")  # fmt: skip


def draw_head(net: nn.Module) -> None:
    """Draws a fresh classifier, or both of a distilled model, from the global generator: weight trunc-normal 0.02, bias 0."""
    for head in classifiers(net).values():
        if isinstance(head, nn.Linear):
            nn.init.trunc_normal_(head.weight, std=HEAD_STD)
            nn.init.zeros_(head.bias)


def own_values(backbone: Mapping[str, Any]) -> dict[str, Any]:
    """input_size (pixels), mean and std of the backbone: as configured, else timm's own for its tag.

    Raises: UserError where neither says them.
    """
    keys = ("input_size", "mean", "std")
    check_name(str(backbone["timm_name"]))
    if all(backbone.get(key) is not None for key in keys):
        return {key: backbone[key] for key in keys}
    name = str(backbone["timm_name"])
    if is_hub_name(name):
        about = hub_config(name)["pretrained_cfg"]
        if absent := [key for key in keys if key not in about]:
            raise UserError(f"{name} says nothing of its {' and '.join(absent)}; give backbone.{absent[0]}=...")
        config: Any = SimpleNamespace(**about)
    else:
        config = timm.get_pretrained_cfg(name)
    if config is None:
        raise UserError(f"backbone.timm_name={name} says nothing of its input; give backbone.input_size, mean and std")
    own = {"input_size": int(config.input_size[-1]), "mean": list(config.mean), "std": list(config.std)}
    return {key: own[key] if backbone.get(key) is None else backbone[key] for key in keys}


def check_name(name: str) -> None:
    """Raises: UserError, with near names, for an architecture that timm does not know or has renamed, or a tag that it lacks."""
    stem, _, tag = name.partition(".")
    if is_hub_name(name):
        return
    if (present := renamed_to(stem)) is not None:
        raise UserError(f"backbone.timm_name={name}: timm has renamed it; use backbone.timm_name={present}")
    if not timm.is_model(stem):
        raise UserError(f"backbone.timm_name={name} is unknown to timm. {_near(name)}")
    tags = list(timm.list_pretrained(f"{stem}.*"))
    if tag and name not in tags:
        raise UserError(f"backbone.timm_name={name}: timm has no such weights of {stem}. Near: {', '.join(tags[:5]) or stem}")


def _near(name: str) -> str:
    stem = name.partition(".")[0]
    near = difflib.get_close_matches(stem, timm.list_models(f"{stem[:12]}*"), n=5) or timm.list_models(f"*{stem[:12]}*")[:5]
    return f"Near: {', '.join(near) or 'nothing'}"
