"""How a weights file of any common format fills a timm model, without unpickling."""

import logging
import math
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from karst_bench.adapt.timm_compat import renamed_checkpoint
from karst_bench.adapt.timm_sites import classifiers
from karst_bench.errors import UserError
from karst_bench.nn.named_tensors import copy_tensors

LARGER, SPARE = 4, 2**29  # an archive may unpack to so many times the model's bytes, and these: other heads, wider numbers
log = logging.getLogger(__name__)

# what training programs put weights under, in the order in which they are looked for: averages are what is evaluated
WRAPPERS = ("state_dict_ema", "model_ema", "teacher", "state_dict", "model", "module", "network")
PREFIXES = ("module.", "model.", "teacher.", "backbone.", "encoder.", "state_dict.", "state_dict_ema.", "_orig_mod.")
OTHER_HEADS = ("head.", "head_dist.", "fc.", "classifier.", "pre_logits.", "norm_head.")
COMPUTED = ("relative_position_index", "relative_coords_table", "attn_mask", "k_bias", "mask_token", "num_batches_tracked")


def load_weights(net: nn.Module, path: Path) -> None:
    """Fills a timm model's backbone from a file, in the model's precision; the classifier is left as it is.

    Weights that a training program wrapped are found and said. Raises: UserError if the file is damaged, is something else
    than weights, needs unpickling, or belongs to another architecture: neither more nor less than the backbone fits.
    """
    refuse_foreign(path)
    refuse_bomb(path, room=LARGER * sum(tensor.nbytes for tensor in net.state_dict().values()) + SPARE)
    if path.suffix == ".npz":
        _load_npz(net, path)
        return
    head = _head_keys(net)
    own = {name: tensor for name, tensor in net.state_dict().items() if name not in head}
    state, wrapping = unwrapped(_read(path), own.keys())
    if wrapping:
        log.info("%s: the weights under %s are taken", path, wrapping)
    given = {name: tensor for name, tensor in _filtered(state, net).items() if name in own or not _aside(name, net)}
    remedy = f"the file is of another architecture than this {type(net).__name__}: choose the backbone it was saved from"
    copy_tensors(own, given, source=str(path), remedy=remedy)


def refuse_foreign(path: Path) -> None:
    """Raises: UserError naming a file that is no weights file for what it is, by its first bytes."""
    with path.open("rb") as file:
        start = file.read(64).lstrip()
    size = path.stat().st_size
    if start.startswith(b"version https://git-lfs"):
        raise UserError(f"{path} is a pointer of git LFS ({size} bytes), not the weights; run `git lfs pull` where it came from")
    if start[:1] == b"<":
        raise UserError(f"{path} is a web page ({size} bytes), not the weights; fetch them again, logged in where that is needed")
    zipped, pickled = start.startswith(b"PK"), start.startswith(b"\x80")
    if path.suffix == ".safetensors" and (zipped or pickled):
        raise UserError(f"{path} is a {'zip archive (torch.save)' if zipped else 'pickle'} by another name; call it .pth")


def refuse_bomb(path: Path, *, room: int) -> None:
    """Raises: UserError naming a zip archive (.npz, .pth) that unpacks to more than `room` bytes, if that is more than it has
    itself, and an array in it that is said to be longer than what is there."""
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(item.file_size for item in archive.infolist())
            longest = max((_claimed(archive, item) for item in archive.infolist() if item.filename.endswith(".npy")), default=0)
    except Exception:  # no zip archive, or not a whole one: whoever reads it says so
        return
    for size in (unpacked, longest):
        if size > max(room, path.stat().st_size):
            raise UserError(f"{path} has {path.stat().st_size} bytes and would unpack to {size}, which no weights of this model "
                            "need; fetch it again from its source")  # fmt: skip


def _claimed(archive: zipfile.ZipFile, item: zipfile.ZipInfo) -> int:
    """The bytes that an array's header announces."""
    with archive.open(item) as file:
        major, _ = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
        shape, _, kind = read(file)
    return math.prod(shape) * kind.itemsize


def unwrapped(state: Mapping[str, Any], own: Collection[str]) -> tuple[dict[str, Tensor], str]:
    """(the weights of a checkpoint by the model's names, what they were wrapped in, "" where in nothing).

    own: the model's names; a prefix goes where all keys have it, or where more of the model's names are there without it.
    """
    path: list[str] = []
    while not any(isinstance(value, Tensor) for value in state.values()):
        inner = next((key for key in WRAPPERS if isinstance(state.get(key), dict)), None)
        if inner is None:
            break
        state, path = state[inner], [*path, inner]
    found = {name: tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}
    for _ in range(3):
        for prefix in PREFIXES:
            bare = {name.removeprefix(prefix): tensor for name, tensor in found.items() if name.startswith(prefix)}
            if bare and (len(bare) == len(found) or len(bare.keys() & own) > len(found.keys() & own)):
                found, path = bare, [*path, prefix]
                break
    return found, " ".join(path)


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, EOFError, RuntimeError, ValueError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:120]
        raise UserError(f"{path} ({path.stat().st_size} bytes) cannot be read: {reason}; fetch it again") from error
    except Exception as error:  # weights_only refuses whatever would have to be unpickled
        raise UserError(f"{path} holds Python objects, which are never unpickled; convert it to safetensors") from error
    return state if isinstance(state, dict) else {}


def _filtered(state: dict[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
    try:
        return renamed_checkpoint(state, net)
    except (KeyError, RuntimeError, AttributeError, IndexError):  # a foreign layout: the caller names what is missing
        return state


def _aside(name: str, net: nn.Module) -> bool:
    """Whether a tensor of a checkpoint is none of the backbone: a classifier, or what a model computes for itself."""
    heads = tuple(f"{path.partition('.')[0]}." for path in classifiers(net))
    return name.startswith((*heads, *OTHER_HEADS)) or name.rpartition(".")[2] in COMPUTED


def _head_keys(net: nn.Module) -> set[str]:
    return {f"{path}.{name}" for path, head in classifiers(net).items() for name, _ in head.named_parameters()}


def _load_npz(net: nn.Module, path: Path) -> None:
    """The original ViT files: arrays under the JAX names, read by timm's loader without pickle."""
    kept = {name: net.get_parameter(name).clone() for name in _head_keys(net)}
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
        for name, value in kept.items():
            net.get_parameter(name).copy_(value)
