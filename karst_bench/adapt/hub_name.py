"""Backbones by their name on the Hugging Face hub, `hf-hub:org/model` or `hf-hub:org/model@revision`, from the local cache.

Nothing here imports torch or asks the network.
"""

import json
from pathlib import Path
from typing import Any

from karst_bench.errors import UserError

HUB = "hf-hub:"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def is_hub_name(name: str) -> bool:
    """Whether this names a model of the hub."""
    return name.startswith(HUB)


def hub_config(name: str) -> dict[str, Any]:
    """What timm's config.json there says: `architecture`, and where they are said `model_args` and `pretrained_cfg`.

    Raises: UserError with the command that fetches it where the cache has none, or it is no timm model's.
    """
    path = _cached(name, "config.json")
    if path is None:
        raise UserError(_absent(name))
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); delete it and fetch it again") from error
    if not isinstance(config, dict) or not isinstance(config.get("architecture"), str):
        raise UserError(f"backbone.timm_name={name}: its config.json names no timm architecture; use a model that timm saved")
    about = config.get("pretrained_cfg")
    return config | {"pretrained_cfg": about if isinstance(about, dict) else config}


def hub_weights(name: str) -> Path:
    """The weights in the cache. Raises: UserError with the command that fetches them where there are none."""
    found = next((path for path in (_cached(name, file) for file in WEIGHTS) if path is not None), None)
    if found is None:
        raise UserError(_absent(name))
    return found


def _cached(name: str, file: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    repository, _, revision = name.removeprefix(HUB).partition("@")
    try:
        found = try_to_load_from_cache(repository, file, revision=revision or None)
    except HFValidationError as error:
        raise UserError(f"backbone.timm_name={name}: no name of a hub repository ({error}); use hf-hub:org/model") from error
    return Path(found) if isinstance(found, str) else None


def _absent(name: str) -> str:
    repository, _, revision = name.removeprefix(HUB).partition("@")
    at = f" --revision {revision}" if revision else ""
    return (f"{name} is not in the hub's cache; fetch it with: hf download {repository} config.json {WEIGHTS[0]}{at}; or point "
            "HF_HOME to a cache that has it")  # fmt: skip
