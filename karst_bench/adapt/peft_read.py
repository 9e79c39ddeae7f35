"""A folder of huggingface/peft as a method of this suite: LoRA and DoRA as they are, VeRA as the LoRA it equals, LoKr as karst.

Everything is read and checked before the model is touched; configurations with options that the suite does not have are
refused by the option's name.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from karst_bench.adapt.attach import adapted_model
from karst_bench.adapt.peft_folder import CONFIG, PREFIX, TENSORS
from karst_bench.adapt.timm_sites import model_spec
from karst_bench.errors import UserError
from karst_bench.nn.model_spec import ModelSpec, Site
from karst_bench.tensors_file import tensors_header

ROLES = ("qkv", "proj", "fc1", "fc2")
FOREIGN = ("fan_in_fan_out", "lora_bias", "layer_replication", "trainable_token_indices", "target_parameters", "use_qalora",
           "use_bdlora", "alora_invocation_tokens", "arrow_config", "decompose_both", "use_effective_conv2d")  # fmt: skip


@dataclass(frozen=True)
class PeftAdapter:
    """What a folder holds, as a method: its name, hyper-parameters, the values of its parameters by layer, and the head's."""

    folder: Path
    method: str
    hyper: dict[str, Any]
    values: dict[str, dict[str, Tensor]]
    head: dict[str, Tensor]


def read_peft(net: nn.Module, folder: str | Path) -> PeftAdapter:
    """Reads a peft folder that was trained on this timm model.

    Raises: UserError where it is damaged, of another model, or holds what the suite has no method for.
    """
    folder, spec = Path(folder), model_spec(net)
    config = _config(folder)
    layers, head, shared = _sorted_tensors(folder, net, spec)
    read = {"LORA": _lora, "VERA": _vera, "LOKR": _lokr}.get(str(config.get("peft_type")))
    if read is None:
        raise UserError(f"{folder}: peft_type={config.get('peft_type')!r} has no method here; lora, dora, vera and lokr have")
    used = [key for key in FOREIGN if config.get(key)] + (["bias"] if config.get("bias", "none") != "none" else [])
    if used:
        raise UserError(f"{folder}: {used[0]}={config[used[0]]!r} has no counterpart here; train it without")
    try:
        method, hyper, values = read(config, layers, shared, _roles(folder, layers, spec))
    except (KeyError, ValueError, TypeError, RuntimeError, ZeroDivisionError) as error:
        kind = config["peft_type"]
        raise UserError(f"{folder} does not hold what a {kind} folder holds: {type(error).__name__}: {error}") from error
    return PeftAdapter(folder, method, hyper, values, head)


@torch.no_grad()
def put_peft(net: nn.Module, adapter: PeftAdapter) -> None:
    """Copies the values into the model that the method was attached to."""
    model = adapted_model(net)
    for path, values in adapter.values.items():
        layer = model.layers[path]
        update = layer.deltas[0]
        if "magnitude" in values:
            values = values | {"mu": values["magnitude"] - layer.base.weight.norm(dim=1)}
        for name, parameter in update.named_parameters():
            parameter.copy_(values[name].reshape(parameter.shape))
    for name, parameter in model.head().items():
        if name in adapter.head:
            parameter.copy_(adapter.head[name])


def _config(folder: Path) -> dict[str, Any]:
    file = folder / CONFIG
    try:
        config = json.loads(file.read_bytes()[: 2**20])
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: {type(error).__name__}; give a folder that peft's save_pretrained wrote") from error
    if not isinstance(config, dict):
        raise UserError(f"{file} is no configuration of peft")
    return config


def _sorted_tensors(
    folder: Path, net: nn.Module, spec: ModelSpec
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor], dict[str, Tensor]]:
    """(peft's tensors by layer, those of the head, those that all layers share), finite and of this model's layers."""
    tensors_header(folder / TENSORS)
    paths = sorted((site.path for site in spec.having(*ROLES)), key=len, reverse=True)
    trunk = {name for name, _ in spec.names}
    heads = {name: p for name, p in net.named_parameters() if name not in trunk}
    layers: dict[str, dict[str, Tensor]] = {}
    head, shared = dict[str, Tensor](), dict[str, Tensor]()
    for key, tensor in load_file(folder / TENSORS).items():
        name = key.removeprefix(PREFIX).removeprefix("base_model.")
        if not (tensor.is_floating_point() and torch.isfinite(tensor).all()):
            raise UserError(f"{folder}: {key} holds values that are no finite numbers")
        path = next((path for path in paths if name.startswith(f"{path}.")), None)
        if name in heads and heads[name].shape == tensor.shape:
            head[name] = tensor
        elif name in ("vera_A", "vera_B"):
            shared[name] = tensor
        elif path is not None:
            layers.setdefault(path, {})[name.removeprefix(f"{path}.").removesuffix(".weight")] = tensor
        else:
            raise UserError(
                f"{folder}: {key} {tuple(tensor.shape)} has no place in this {type(net).__name__}; use the model it was trained on"
            )
    if head and head.keys() != heads.keys():
        raise UserError(f"{folder}: of the classifier it holds {', '.join(head)} alone")
    return layers, head, shared


def _roles(folder: Path, layers: Mapping[str, Any], spec: ModelSpec) -> dict[str, Site]:
    """The sites that are changed, by path: all of a role, or none. Raises: UserError otherwise."""
    sites = {site.path: site for site in spec.having(*ROLES) if site.path in layers}
    whole = {site.path for site in spec.having(*{site.role for site in sites.values()})}
    if not sites or whole != sites.keys():
        missing = sorted(whole - sites.keys()) or ["anything"]
        raise UserError(f"{folder} does not change {missing[0]}, though others of its kind; the methods here change all or none")
    return sites


def _places(sites: Mapping[str, Site]) -> str:
    roles = {site.role for site in sites.values()}
    places = {frozenset({"qkv"}): "qkv_fused", frozenset(ROLES): "all"}
    if frozenset(roles) not in places:
        raise UserError(f"LoRA on {', '.join(sorted(roles))} has no `sites` here; on qkv, or on qkv, proj, fc1 and fc2, it has")
    return places[frozenset(roles)]


def _lora(
    config: Mapping[str, Any], layers: Mapping[str, dict[str, Tensor]], _shared: Mapping[str, Tensor], sites: Mapping[str, Site]
) -> tuple[str, dict[str, Any], dict[str, dict[str, Tensor]]]:
    (r,) = {len(parts["lora_A"]) for parts in layers.values()}
    scales = {_scale(config, path, r) for path in layers}
    s = scales.pop() if len(scales) == 1 else 1.0
    values = {path: {"A": parts["lora_A"], "B": parts["lora_B"] * (_scale(config, path, r) / s)} for path, parts in layers.items()}
    dora = bool(config.get("use_dora"))
    if dora:
        for path, parts in layers.items():
            values[path]["magnitude"] = parts["lora_magnitude_vector"]
    hyper = {"r": r, "s": s, "sites": _places(sites)} | ({} if dora else {"dropout": 0.0})
    return "dora" if dora else "lora", hyper, values


def _scale(config: Mapping[str, Any], path: str, r: int) -> float:
    named = [value for key, value in (config.get("alpha_pattern") or {}).items() if path == key or path.endswith(f".{key}")]
    alpha = float(named[0] if named else config["lora_alpha" if "lora_alpha" in config else "alpha"])
    return alpha / (math.sqrt(r) if config.get("use_rslora") else r)


def _vera(
    config: Mapping[str, Any], layers: Mapping[str, dict[str, Tensor]], shared: Mapping[str, Tensor], sites: Mapping[str, Site]
) -> tuple[str, dict[str, Any], dict[str, dict[str, Tensor]]]:
    """diag(b) B diag(d) A is a product of rank r: the suite's own vera draws A and B from a key and stores neither."""
    if not shared:
        raise UserError("the folder does not hold vera_A and vera_B; save it with save_projection=True")
    values = {}
    for path, site in sites.items():
        b, d = layers[path]["vera_lambda_b"], layers[path]["vera_lambda_d"]
        values[path] = {"A": d[:, None] * shared["vera_A"][:, : site.d_in], "B": b[:, None] * shared["vera_B"][: site.d_out]}
    (r,) = {len(parts["A"]) for parts in values.values()}
    return "lora", {"r": r, "s": 1.0, "dropout": 0.0, "sites": _places(sites)}, values


def _lokr(
    config: Mapping[str, Any], layers: Mapping[str, dict[str, Tensor]], _shared: Mapping[str, Tensor], sites: Mapping[str, Site]
) -> tuple[str, dict[str, Any], dict[str, dict[str, Tensor]]]:
    ((m, width),) = {tuple(parts["lokr_w1"].shape) for parts in layers.values()}
    if m != width or any("lokr_w2_a" not in parts for parts in layers.values()):
        raise UserError("a LoKr whose w1 is not square, or whose w2 is not of low rank, has no form here")
    (r,) = {parts["lokr_w2_a"].shape[1] for parts in layers.values()}
    values = {path: {"C": parts["lokr_w1"], "A": parts["lokr_w2_a"], "B": parts["lokr_w2_b"]} for path, parts in layers.items()}
    (sigma,) = {_scale(config, path, r) for path in layers}
    roles = [role for role in ROLES if role in {site.role for site in sites.values()}]
    return "karst", {"N": 1, "m": m, "r": r, "sigma": sigma, "sites": roles, "qkv_mode": "fused"}, values
