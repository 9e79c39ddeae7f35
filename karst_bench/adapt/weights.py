"""How a weights file of any common format fills a timm model, without unpickling."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from karst_bench.adapt.timm_compat import renamed_checkpoint
from karst_bench.adapt.timm_sites import classifier
from karst_bench.errors import UserError
from karst_bench.nn.named_tensors import copy_tensors


def load_weights(net: nn.Module, path: Path) -> None:
    """Fills a timm model's backbone from a file, in the model's precision; the classifier is left as it is.

    Raises: UserError if the file is damaged, needs unpickling, or belongs to another architecture.
    """
    if path.suffix == ".npz":
        _load_npz(net, path)
        return
    head = _head_keys(net)
    own = {name: tensor for name, tensor in net.state_dict().items() if name not in head}
    given = {name: tensor for name, tensor in _filtered(_read(path), net).items() if name in own}
    remedy = f"the file is of another architecture than this {type(net).__name__}: choose the backbone it was saved from"
    copy_tensors(own, given, source=str(path), remedy=remedy)


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
    head = classifier(net)
    prefix = next((name for name, module in net.named_modules() if module is head), "head")
    return {f"{prefix}.{name}" for name, _ in head.named_parameters()}


def _load_npz(net: nn.Module, path: Path) -> None:
    """The original ViT files: arrays under the JAX names, read by timm's loader without pickle."""
    kept = {name: p.clone() for name, p in classifier(net).named_parameters()}
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
        for name, p in classifier(net).named_parameters():
            p.copy_(kept[name])
