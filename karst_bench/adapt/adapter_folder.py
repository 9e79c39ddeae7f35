"""The folder form of an adapter: the file, the same facts as JSON, and a card for people; read as the file itself."""

import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec
from torch import nn

from karst_bench import files
from karst_bench.adapt.adapter_about import ABOUT, AdapterAbout, about_text, card
from karst_bench.adapt.adapter_file import IN_FOLDER, adapter_parts, attached_names, read_adapter_header
from karst_bench.tensors_file import to_safetensors


def save_folder(net: nn.Module, folder: Path, about: AdapterAbout) -> Path:
    """Writes adapter.safetensors, adapter.json and README.md; the tensors last, so that a folder with them is whole.

    Raises: UserError as `adapter_parts`, or where the folder cannot be written.
    """
    tensors, texts = adapter_parts(net)
    image = to_safetensors(tensors, texts | {ABOUT: about_text(about)})
    said: dict[str, Any] = {"format": texts["format"], "file": IN_FOLDER, "sha256": hashlib.sha256(image).hexdigest()}
    said |= {key: json.loads(texts[key]) for key in ("spec", "backbone")}
    said["about"] = msgspec.to_builtins(about)
    settings, backbone = said["spec"], said["backbone"]
    facts = {"architecture": f"{backbone.get('name', 'timm')}, {backbone['depth']} blocks of width {backbone['widths'][0]}",
             "trained scalars, the head included": f"{sum(tensor.numel() for tensor in tensors.values()):,}",
             "file, SHA-256": f"`{said['sha256']}`"}  # fmt: skip
    if hashes := backbone.get("weights_sha256"):
        facts["frozen weights, SHA-256"] = f"`{next(iter(hashes.values()))}`"
    text = card(about, method=attached_names(settings), settings=settings, facts=facts)
    files.write(folder / "README.md", text.encode(), setting="out")
    files.write(folder / "adapter.json", (json.dumps(said, indent=1, sort_keys=True) + "\n").encode(), setting="out")
    files.write(folder / IN_FOLDER, image, setting="out")
    read_adapter_header(folder)
    return folder
