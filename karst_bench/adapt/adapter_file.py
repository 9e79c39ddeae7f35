"""Saves and loads the trained part only: safetensors with the settings that rebuild it.

What a scored method was attached from travels along: tensors under `artefact/<method>/`, its facts in the metadata. So do
the buffers that a module names in `adapter_buffers`, without which its parameters do not say the whole map.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from karst_bench.adapt.attach import adapted_model
from karst_bench.adapt.model import TimmAdaptedModel
from karst_bench.errors import UserError
from karst_bench.methods.base import Artefact
from karst_bench.nn.named_tensors import copy_tensors

FORMAT = "karst_bench-adapter-1"
ARTEFACT = "artefact/"


def adapter_tensors(net: nn.Module) -> dict[str, Tensor]:
    """What was trained, by name: the methods' parameters and the head, detached, on the CPU.

    Raises: UserError on a merged model, whose trained part no longer stands apart.
    """
    model = adapted_model(net)
    if model.merged:
        raise UserError("the model is merged; call karst_bench.unmerge(model) before saving its adapter")
    found = {f"{ARTEFACT}{method}/{key}": tensor for method, artefact in model.artefacts.items()
             for key, tensor in artefact.tensors.items()}  # fmt: skip
    return {name: tensor.detach().cpu().contiguous() for name, tensor in (_live(model) | found).items()}


def adapter_metadata(net: nn.Module) -> dict[str, str]:
    """The settings that rebuild the adapter, as safetensors metadata."""
    model = adapted_model(net)
    described = {"family": model.spec.family, "depth": model.spec.depth, "widths": list(model.spec.widths)}
    facts = {method: dict(artefact.facts) for method, artefact in model.artefacts.items()}
    return {"format": FORMAT, "spec": json.dumps(model.method_settings, sort_keys=True), "backbone": json.dumps(described),
            **({"artefacts": json.dumps(facts, sort_keys=True)} if facts else {})}  # fmt: skip


def read_adapter(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Artefact]]:
    """(tensors, method settings, artefacts) of an adapter file. Raises: UserError if it is missing, damaged or of another kind."""
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
    artefacts = {}
    for method, facts in json.loads(metadata.get("artefacts", "{}")).items():
        prefix = f"{ARTEFACT}{method}/"
        own = {key.removeprefix(prefix): tensors.pop(key) for key in list(tensors) if key.startswith(prefix)}
        artefacts[method] = Artefact(own, facts)
    return tensors, json.loads(metadata["spec"]), artefacts


def put_adapter(net: nn.Module, tensors: Mapping[str, Tensor], *, source: str) -> None:
    """Copies saved values into an attached model. Raises: UserError if names or shapes differ; nothing is copied then."""
    model = adapted_model(net)
    remedy = "use the backbone, method and class count it was trained with"
    copy_tensors(_live(model), tensors, source=source, remedy=remedy)


def _live(model: TimmAdaptedModel) -> dict[str, Tensor]:
    """The model's tensors that an adapter file holds, by name."""
    buffers = {f"{path}.{name}": module.get_buffer(name) for path, module in model.net.named_modules()
               for name in getattr(module, "adapter_buffers", ())}  # fmt: skip
    return {**model.trained(), **model.head(), **buffers}
