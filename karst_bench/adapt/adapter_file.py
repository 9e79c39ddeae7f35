"""Saves and loads the trained part only: safetensors with the settings that rebuild it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from karst_bench.adapt import adapted_model
from karst_bench.errors import UserError

FORMAT = "karst_bench-adapter-1"


def adapter_tensors(net: nn.Module) -> dict[str, Tensor]:
    """What was trained, by name: the methods' parameters and the head, detached, on the CPU.

    Raises: UserError on a merged model, whose trained part no longer stands apart.
    """
    model = adapted_model(net)
    if model.merged:
        raise UserError("the model is merged; call karst_bench.unmerge(model) before saving its adapter")
    return {name: p.detach().cpu().contiguous() for name, p in (model.trained() | model.head()).items()}


def adapter_metadata(net: nn.Module) -> dict[str, str]:
    """The settings that rebuild the adapter, as safetensors metadata."""
    model = adapted_model(net)
    described = {"family": model.spec.family, "depth": model.spec.depth, "widths": list(model.spec.widths)}
    return {"format": FORMAT, "spec": json.dumps(model.method_settings, sort_keys=True), "backbone": json.dumps(described)}


def read_adapter(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors, spec) of an adapter file. Raises: UserError if it is missing, damaged or of another kind."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no adapter at {path}; train one with save_adapter=true, or give adapter=PATH")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  safe_open is no mapping
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a readable safetensors file ({error}); save the adapter again") from error
    if metadata.get("format") != FORMAT:
        raise UserError(
            f"{path} has format {metadata.get('format')!r}, this version reads {FORMAT!r}; save the adapter again"
        )
    return tensors, json.loads(metadata["spec"])


@torch.no_grad()
def put_adapter(net: nn.Module, tensors: Mapping[str, Tensor], *, source: str) -> None:
    """Copies saved values into an attached model. Raises: UserError if names or shapes differ; nothing is copied then."""
    model = adapted_model(net)
    own = model.trained() | model.head()
    missing, foreign = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    if missing or foreign:
        example = (missing or foreign)[0]
        raise UserError(
            f"{source} does not fit this model: {len(missing)} parameters missing, {len(foreign)} unknown (such as {example}); "
            "use the backbone and method it was trained with"
        )
    for name, parameter in own.items():
        if parameter.shape != tensors[name].shape:
            raise UserError(
                f"{source}: {name} has shape {tuple(tensors[name].shape)}, this model needs {tuple(parameter.shape)}; "
                "use the backbone, method and class count it was trained with"
            )
    for name, parameter in own.items():
        parameter.copy_(tensors[name])
