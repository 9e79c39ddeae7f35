"""Builds the timm model a configuration names."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from karst_bench.adapt.timm_sites import classifiers
from karst_bench.adapt.weights import load_weights
from karst_bench.errors import UserError

HEAD_STD = 0.02


def build_backbone(
    backbone: Mapping[str, Any], *, classes: int, weights: Path | None, drop_path: float = 0.0, device: str = "cpu"
) -> nn.Module:
    """An unmodified timm model with a fresh head: weight trunc-normal 0.02, bias 0 [methods-core section 0.2].

    device="meta" gives shapes without memory. Draws from the global generator: seed it outside.
    Raises: UserError for a name timm does not know or arguments the model does not take.
    """
    name, arguments = str(backbone["timm_name"]), dict(backbone.get("model_args") or {})
    arguments |= _input_side(name, backbone, arguments)
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


def _input_side(name: str, backbone: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, int]:
    """img_size for a backbone whose configured input is not the size that timm builds it for."""
    side = backbone.get("input_size")
    if side is None or "img_size" in arguments:
        return {}
    config = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    return {} if config is None or config.input_size[-1] == side else {"img_size": int(side)}


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
    if all(backbone.get(key) is not None for key in keys):
        return {key: backbone[key] for key in keys}
    name = str(backbone["timm_name"])
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise UserError(f"backbone.timm_name={name}: {error}. {_near(name)}") from error
    if config is None:
        raise UserError(f"backbone.timm_name={name} is unknown to timm. {_near(name)}")
    own = {"input_size": int(config.input_size[-1]), "mean": list(config.mean), "std": list(config.std)}
    return {key: own[key] if backbone.get(key) is None else backbone[key] for key in keys}


def _near(name: str) -> str:
    stem = name.partition(".")[0]
    near = difflib.get_close_matches(stem, timm.list_models(f"{stem[:12]}*"), n=5) or timm.list_models(f"*{stem[:12]}*")[:5]
    return f"Near: {', '.join(near) or 'nothing'}"
