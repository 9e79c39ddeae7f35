"""Where a backbone's weights lie, their hash, and how a file of any common format is read without unpickling."""

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from karst_bench.adapt.timm_compat import renamed_checkpoint
from karst_bench.errors import UserError

SUFFIXES = (".safetensors", ".npz", ".pth")
PACKAGED = Path(__file__).resolve().parent.parent / "weights"


def find_weights(backbone: Mapping[str, Any], root: Path) -> Path | None:
    """The file of backbone.weights: None for `none`, a given path, or for `pretrained` the package's or paths.weights'.

    Raises: UserError naming every place that was looked at and the command that fetches the weights.
    """
    wanted = str(backbone["weights"])
    if wanted == "none":
        return None
    if wanted != "pretrained":
        path = Path(wanted)
        path = path / "model.safetensors" if path.is_dir() else path
        if not path.is_file():
            raise UserError(
                f"backbone.weights={wanted}: no such file; give a .npz, .pth, .safetensors or a folder that timm saved"
            )
        return path
    places = [PACKAGED / f"{backbone['name']}.safetensors"]
    places += [root / f"{backbone['timm_name']}{suffix}" for suffix in SUFFIXES]
    places += [root / str(backbone["timm_name"]) / "model.safetensors"]
    for place in places:
        if place.is_file():
            return place
    shown = ", ".join(str(place) for place in places[1:])
    raise UserError(
        f"the weights of {backbone['timm_name']} are not here: looked for {shown}. "
        f"Fetch them with: python scripts/fetch_weights.py {backbone['timm_name']} out={root}; "
        "or give a file (backbone.weights=PATH), or start from random weights (backbone.weights=none)"
    )


def weights_sha256(path: Path | None) -> str | None:
    """The SHA-256 of the weights file, computed once for each state of the file; None for random weights."""
    if path is None:
        return None
    status = path.stat()
    return _sha256(path.resolve(), status.st_mtime_ns, status.st_size)


@functools.cache
def _sha256(path: Path, _mtime: int, _size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_weights(net: nn.Module, path: Path) -> None:
    """Fills a timm model's backbone from a file, in fp32; the classifier is left as it is.

    Raises: UserError if the file is damaged, needs unpickling, or belongs to another architecture.
    """
    if path.suffix == ".npz":
        _load_npz(net, path)
        return
    head = _head_keys(net)
    own = {name: tensor for name, tensor in net.state_dict().items() if name not in head}
    given = {name: tensor.float() for name, tensor in _filtered(_read(path), net).items() if name in own}
    missing = sorted(own.keys() - given.keys())
    if missing:
        raise UserError(
            f"{path} is of another architecture than {type(net).__name__}: {len(missing)} of {len(own)} tensors are missing, "
            f"such as {missing[0]}; choose the backbone it was saved from"
        )
    for name, tensor in given.items():
        if tensor.shape != own[name].shape:
            raise UserError(
                f"{path}: {name} has shape {tuple(tensor.shape)}, the backbone needs {tuple(own[name].shape)}; "
                "choose the backbone it was saved from"
            )
    net.load_state_dict(given, strict=False)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, EOFError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0][:120]
        raise UserError(f"{path} ({path.stat().st_size} bytes) cannot be read: {reason}; fetch it again") from error
    except Exception as error:  # weights_only refuses whatever would have to be unpickled
        raise UserError(f"{path} holds Python objects, which are never unpickled; convert it to safetensors") from error
    state = state if isinstance(state, dict) else {}
    state = state.get("model") or state.get("state_dict") or state
    return {name: tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}


def _filtered(state: dict[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
    try:
        return renamed_checkpoint(state, net)
    except (KeyError, RuntimeError, AttributeError, IndexError):  # a foreign layout: the caller names what is missing
        return state


def _head_keys(net: nn.Module) -> set[str]:
    head = net.get_classifier()  # type: ignore[operator]
    prefix = next((name for name, module in net.named_modules() if module is head), "head")
    return {f"{prefix}.weight", f"{prefix}.bias"}


def _load_npz(net: nn.Module, path: Path) -> None:
    """The original ViT files: arrays under the JAX names, read by timm's loader without pickle."""
    classifier = {name: p.clone() for name, p in net.get_classifier().named_parameters()}  # type: ignore[operator]
    try:
        net.load_pretrained(str(path))  # type: ignore[operator]
    except AttributeError as error:
        raise UserError(f"{path}: only a ViT reads .npz weights, this is a {type(net).__name__}") from error
    except Exception as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise UserError(
            f"{path} does not fill this backbone: {reason}; fetch it again or choose the backbone it belongs to"
        ) from error
    with torch.no_grad():
        for name, p in net.get_classifier().named_parameters():  # type: ignore[operator]
            p.copy_(classifier[name])
