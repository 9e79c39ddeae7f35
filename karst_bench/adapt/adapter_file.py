"""Saves and reads the trained part only: safetensors with the settings that rebuild it and what it was trained on.

What a scored method was attached from travels along: tensors under `artefact/<method>/`, its facts in the metadata. So do
the buffers that a module names in `adapter_buffers`, without which its parameters do not say the whole map. A folder with
`adapter.safetensors` is read as the file itself (adapt/adapter_folder.py says what else lies there).
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from karst_bench.adapt.adapter_about import ABOUT, AdapterAbout
from karst_bench.adapt.attach import adapted_model
from karst_bench.adapt.model import TimmAdaptedModel
from karst_bench.adapt.weights_hash import weights_hash, weights_hashes
from karst_bench.errors import UserError
from karst_bench.methods.base import Artefact
from karst_bench.nn.named_tensors import gathered
from karst_bench.tensors_file import TensorEntry, TensorsHeader, tensors_header

FORMAT = "karst_bench-adapter-1"
ARTEFACT = "artefact/"
IN_FOLDER = "adapter.safetensors"
NODES = {"method", "also", "extra"}
MAX_TEXT = 1024 * 1024  # of one text of the header; the longest real one, a subnet's, has 3 kB


class BackboneFacts(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an adapter was trained on. name: timm's; weights_sha256: of the frozen weights, by the precision they are read in
    (adapt/weights_hash.py); both are absent from files of 0.1."""

    family: str
    depth: int
    widths: tuple[int, ...]
    name: str | None = None
    weights_sha256: dict[str, str] = {}


@dataclass(frozen=True)
class AdapterHeader:
    """What an adapter file says before any tensor is read. tensors: the trained ones; artefacts: {method: its facts};
    artefact_tensors: by their names in the file."""

    path: Path
    method_settings: dict[str, Any]
    backbone: BackboneFacts
    tensors: Mapping[str, TensorEntry]
    artefacts: Mapping[str, dict[str, Any]]
    artefact_tensors: Mapping[str, TensorEntry]
    texts: Mapping[str, str] = field(default_factory=dict)
    about: AdapterAbout = field(default_factory=AdapterAbout)

    @property
    def method(self) -> str:
        """`karst`, or `lora+vpt_deep`."""
        return attached_names(self.method_settings)


def attached_names(method_settings: Mapping[str, Any]) -> str:
    """What such settings attach, as one word: `karst`, or `lora+vpt_deep`."""
    names = [method_settings[node]["name"] for node in ("method", "also", "extra")]
    return "+".join(name for name in names if name != "none")


def adapter_parts(net: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(what was trained, by name: the methods' parameters and the head, detached, on the CPU; the metadata beside it: the
    settings that rebuild it, the backbone it belongs to, a hash over the values). A model that FSDP sharded is gathered tensor
    by tensor: every process must call it.

    Raises: UserError on a merged model, whose trained part no longer stands apart, and where a parameter trains that is not
    the methods' or the head's: it would be lost.
    """
    model = adapted_model(net)
    if model.merged:
        raise UserError("the model is merged; call karst_bench.unmerge(model) before saving its adapter")
    live = live_tensors(model)
    lost = [name for name, p in net.named_parameters() if p.requires_grad and name not in live]
    if lost:
        raise UserError(
            f"{len(lost)} parameters are trained that no method added, such as {lost[0]}, and an adapter would not contain them; "
            "freeze them (requires_grad_(False)), attach a method that trains them (bitfit, full), or save the whole state_dict"
        )
    found = {f"{ARTEFACT}{method}/{key}": tensor for method, artefact in model.artefacts.items()
             for key, tensor in artefact.tensors.items()}  # fmt: skip
    tensors = {name: gathered(tensor.detach()).cpu().contiguous() for name, tensor in (live | found).items()}
    texts = _metadata(net, model)
    return tensors, texts | {"content_sha256": _content_hash(tensors, texts)}


def _metadata(net: nn.Module, model: TimmAdaptedModel) -> dict[str, str]:
    described = BackboneFacts(
        family=model.spec.family, depth=model.spec.depth, widths=model.spec.widths, name=model_name(net),
        weights_sha256=weights_hashes(model.frozen()),
    )  # fmt: skip
    facts = {method: dict(artefact.facts) for method, artefact in model.artefacts.items()}
    return {"format": FORMAT, "spec": json.dumps(model.method_settings, sort_keys=True),
            "backbone": json.dumps(msgspec.to_builtins(described)),
            **({"artefacts": json.dumps(facts, sort_keys=True)} if facts else {})}  # fmt: skip


def model_name(net: Any) -> str:
    """timm's name of the architecture, else the class's."""
    about = getattr(net, "pretrained_cfg", None) or {}
    return str(about.get("architecture") or type(net).__name__)


def read_adapter_header(path: str | Path) -> AdapterHeader:
    """What an adapter file or folder says of itself; nothing of the size that it claims is allocated.

    Raises: UserError if it is missing, damaged, of another kind or of another version.
    """
    path = Path(path)
    path = path / IN_FOLDER if path.is_dir() else path
    if not path.is_file():
        raise UserError(f"no adapter at {path}; train one with save_adapter=true, or give adapter=PATH")
    header = tensors_header(path)
    if header.texts.get("format") != FORMAT:
        raise UserError(
            f"{path} has format {header.texts.get('format', 'none')[:60]!r}, this version reads {FORMAT!r}; save the adapter again"
        )
    settings = _settings(path, header)
    artefacts = _parsed(path, header, "artefacts", dict[str, dict[str, Any]]) if "artefacts" in header.texts else {}
    own = {name: entry for name, entry in header.tensors.items() if not name.startswith(ARTEFACT)}
    return AdapterHeader(
        path=path, method_settings=settings, backbone=_parsed(path, header, "backbone", BackboneFacts), tensors=own,
        artefacts=artefacts, artefact_tensors={name: entry for name, entry in header.tensors.items() if name not in own},
        texts=header.texts, about=_parsed(path, header, ABOUT, AdapterAbout) if ABOUT in header.texts else AdapterAbout(),
    )  # fmt: skip


def read_tensors(header: AdapterHeader) -> tuple[dict[str, Tensor], dict[str, Artefact]]:
    """(trained tensors, artefacts) of an adapter. Raises: UserError if the file is damaged or a value is not finite."""
    try:
        with safe_open(header.path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in (*header.tensors, *header.artefact_tensors)}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{header.path} is not a readable safetensors file ({error}); save the adapter again") from error
    if header.texts.get("content_sha256") not in (None, _content_hash(tensors, header.texts)):
        raise UserError(
            f"{header.path}: values or settings were changed after it was written, their SHA-256 does not fit; copy it again"
        )
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise UserError(f"{header.path}: {name} holds values that are not finite; train and save the adapter again")
    artefacts = {}
    for method, facts in header.artefacts.items():
        prefix = f"{ARTEFACT}{method}/"
        found = {key.removeprefix(prefix): tensors[key] for key in header.artefact_tensors if key.startswith(prefix)}
        artefacts[method] = Artefact(found, facts)
    return {name: tensors[name] for name in header.tensors}, artefacts


def live_tensors(model: TimmAdaptedModel) -> dict[str, Tensor]:
    """The model's tensors that an adapter file holds, by name."""
    buffers = {f"{path}.{name}": module.get_buffer(name) for path, module in model.net.named_modules()
               for name in getattr(module, "adapter_buffers", ())}  # fmt: skip
    return {**model.trained(), **model.head(), **buffers}


def _content_hash(tensors: Mapping[str, Tensor], texts: Mapping[str, str]) -> str:
    """SHA-256 over the values and over what says how they are attached."""
    said = [texts.get(key, "") for key in ("spec", "artefacts")]
    return hashlib.sha256(json.dumps([weights_hash(tensors), *said]).encode()).hexdigest()


def _settings(path: Path, header: TensorsHeader) -> dict[str, Any]:
    settings: dict[str, Any] = _parsed(path, header, "spec", dict[str, dict[str, Any]])
    if settings.keys() != NODES or any(not isinstance(node.get("name"), str) for node in settings.values()):
        raise UserError(
            f"{path} says nothing of how it was attached: its spec names {', '.join(sorted(settings))[:80] or 'nothing'} "
            "instead of method, also and extra; attach the method yourself and save it again"
        )
    return settings


def _parsed(path: Path, header: TensorsHeader, key: str, kind: Any) -> Any:
    text = header.texts.get(key, "")
    try:
        if len(text) > MAX_TEXT:
            raise ValueError(f"{len(text)} characters, at most {MAX_TEXT} are read")
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: its {key!r} cannot be read: {str(error)[:160]}; save the adapter again") from error
