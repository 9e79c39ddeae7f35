"""Saves and loads the trained part only: safetensors with the settings that rebuild it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from karst_bench.adapt.attach import adapted_model
from karst_bench.errors import UserError
from karst_bench.nn.named_tensors import copy_tensors

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
    """(tensors, method settings) of an adapter file. Raises: UserError if it is missing, damaged or of another kind."""
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


def put_adapter(net: nn.Module, tensors: Mapping[str, Tensor], *, source: str) -> None:
    """Copies saved values into an attached model. Raises: UserError if names or shapes differ; nothing is copied then."""
    model = adapted_model(net)
    remedy = "use the backbone, method and class count it was trained with"
    copy_tensors(model.trained() | model.head(), tensors, source=source, remedy=remedy)
