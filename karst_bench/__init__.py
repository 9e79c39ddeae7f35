"""Parameter-efficient fine-tuning of vision transformers: attach a method to any timm ViT or Swin, merge it, save it.

model = timm.create_model("vit_base_patch16_224.orig_in21k", pretrained=True, num_classes=100)
karst_bench.attach(model, "karst", N=2, m=8, r=8)     # in place; only the method and the head train
...                                                   # any training loop
karst_bench.save_adapter(model, "cifar100.safetensors")
karst_bench.merge(model)                              # plain timm layers again
"""

import copy
import threading
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from karst_bench.errors import UserError

if TYPE_CHECKING:  # torch loads with the first call, so that reports and a mistyped key need not wait for it
    from collections.abc import Iterable, Sequence
    from contextlib import AbstractContextManager

    from torch import Tensor, nn

__version__ = "0.2.0"
_SEEDING = threading.Lock()  # torch's global generator is one for all threads
__all__ = ["UserError", "attach", "detach", "disable_adapter", "export", "load_adapter", "load_peft", "merge",
           "print_trainable_parameters", "push_to_hub", "save_adapter", "save_peft", "set_adapter", "unmerge"]  # fmt: skip


def attach(
    model: "nn.Module",
    method: str,
    *,
    extra: str | None = None,
    also: str | None = None,
    seed: int | None = None,
    scoring: "Iterable[tuple[Tensor, Tensor]] | None" = None,
    sites: "str | Sequence[str] | None" = None,
    adapter_name: str | None = None,
    **hyper: Any,
) -> "nn.Module":
    """Attaches a method to a timm ViT or Swin in place and returns the same module; its forward keeps its signature.

    method, also, extra: names as on the command line (`method=karst also=vpt_deep extra=none`); extra=None is the
    method's own default. hyper: the method's hyper-parameters by their YAML names. seed: of the new parameters; None
    draws from torch's global generator. scoring: labelled training batches for methods with a scoring pre-pass (SPT,
    HEAT). sites: where the method goes, ["q", "v"] or ["qkv", "proj", "fc1", "fc2"], where it has a choice. adapter_name: one of
    several on this backbone, beside those that are there (`set_adapter`). Everything but the head and the methods is frozen.
    Raises: UserError for an unknown name or value, or where the method does not fit the model, which is then as it was.
    """
    from karst_bench.adapt.adapter_shelf import shelved
    from karst_bench.adapt.attach import attach_methods
    from karst_bench.adapt.scoring import score_methods
    from karst_bench.config.compose import settings_of
    from karst_bench.engine.streams import Streams, seeded
    from karst_bench.methods.build import build_methods

    overrides = [f"method={method}", f"also={also or 'none'}", *([f"extra={extra}"] if extra is not None else [])]
    if sites is not None:
        hyper["sites"] = sites
    overrides += [f"method.{key}={_as_override(value)}" for key, value in hyper.items()]
    settings = settings_of(overrides)
    method_settings = {"method": settings.method, "also": settings.also, "extra": settings.extra}
    methods = build_methods(method_settings)
    with (nullcontext() if seed is None else _SEEDING, nullcontext() if seed is None else seeded(Streams(seed).init),
          nullcontext() if adapter_name is None else shelved(model, adapter_name)):  # fmt: skip
        artefacts = {} if scoring is None else score_methods(copy.deepcopy(model), methods, lambda _: scoring)
        attach_methods(model, methods, artefacts=artefacts, method_settings=method_settings)
    return model.to(next(model.parameters()).device)


def detach(model: "nn.Module") -> "nn.Module":
    """Takes the methods out again: modules, names and requires_grad are those of before `attach`. Values that were trained in
    the model itself (its head, biases of bitfit) stay; a merged model stays merged, and can be attached to anew.

    Raises: UserError on a model without a method.
    """
    from karst_bench.adapt.attach import detach_methods

    detach_methods(model)
    return model


def set_adapter(model: "nn.Module", adapter_name: str) -> "nn.Module":
    """Puts one of several adapters, with the head it was trained with, in the place of the one that is in the model.

    Their names were given to `attach` and `load_adapter`; what was attached without one is called `default`.
    Raises: UserError for a name that there is not, and on a merged model.
    """
    from karst_bench.adapt.adapter_shelf import select_adapter

    select_adapter(model, adapter_name)
    return model


def disable_adapter(model: "nn.Module") -> "AbstractContextManager[nn.Module]":
    """`with disable_adapter(model):` the model is the frozen backbone, under the head that was trained; as before afterwards.

    Raises: UserError on a merged model, and where a method trains the backbone's own parameters (bitfit, full).
    """
    from karst_bench.adapt.adapter_shelf import without_adapter

    return without_adapter(model)


def print_trainable_parameters(model: "nn.Module") -> None:
    """Prints what trains: `trainable params: 371,812 || all params: ... || trainable%: ...`, method and head apart."""
    from karst_bench.adapt.adapter_shelf import trained_counts

    method, head, every = trained_counts(model)
    trained = f"trainable params: {method + head:,} || all params: {every:,} || trainable%: {100 * (method + head) / every:.4f}"
    print(f"{trained} (method {method:,}, head {head:,})")


def merge(model: "nn.Module") -> "nn.Module":
    """Folds the attached method into plain timm layers, in place: same logits, timm's own state_dict keys.

    Raises: UserError if a part of the method has no weight form.
    """
    from karst_bench.adapt.merge import merge as fold

    return fold(model)


def unmerge(model: "nn.Module") -> "nn.Module":
    """Undoes `merge` bit by bit. Raises: UserError if the model is not merged."""
    from karst_bench.adapt.merge import unmerge as unfold

    return unfold(model)


def save_adapter(model: "nn.Module", path: str | Path, *, class_names: "Iterable[str]" = ()) -> Path:
    """Writes what was trained (method and head) and what rebuilds it, atomically: a .safetensors file, or else a folder with
    the same file, its facts as JSON and a card for people, which names the classes.

    Raises: UserError on a model without a method, on a merged one, where a parameter trains that would not be stored, or where
    the path cannot be written.
    """
    from karst_bench import files
    from karst_bench.adapt.adapter_about import AboutDataset, AdapterAbout
    from karst_bench.adapt.adapter_file import adapter_parts
    from karst_bench.adapt.adapter_folder import save_folder
    from karst_bench.tensors_file import to_safetensors

    path = Path(path)
    if path.suffix != ".safetensors":
        names = tuple(class_names)
        return save_folder(model, path, AdapterAbout(dataset=AboutDataset(name="a set of one's own", classes=len(names),
                                                                          class_names=names) if names else None))  # fmt: skip
    files.write(path, to_safetensors(*adapter_parts(model)), once=False)
    return path


def load_adapter(
    model: "nn.Module", path: str | Path, *, adapter_name: str | None = None, allow_other_backbone: bool = False
) -> "nn.Module":
    """Loads an adapter (a file, or the folder of a run) into a model: attaches the method it was saved with if none is
    attached, then copies the values. Everything is checked before the model is touched: format, method, shapes, finite
    values, the backbone's family, depth and the hash of its frozen weights, which allow_other_backbone passes over.
    adapter_name: as one of several, beside those that are there.

    Raises: UserError with both values where file and model differ; the model is as it was then.
    """
    from karst_bench.adapt.adapter_load import load_onto
    from karst_bench.adapt.adapter_shelf import shelved

    with nullcontext() if adapter_name is None else shelved(model, adapter_name):
        load_onto(model, str(path), allow_other_backbone=allow_other_backbone)
    return model


def export(model: "nn.Module", path: str | Path, *, format: str = "onnx") -> float:
    """Writes the model, merged or with its method, as one program for batches of any size: `onnx`, or `torch` (torch.export).
    It runs where karst_bench is not. Returns how far its logits are from the model's, as tried on two batches.

    Raises: UserError where torch cannot follow the model, a package is missing, or the logits differ by more than 1e-4.
    """
    from karst_bench.adapt.export_program import export_program
    from karst_bench.adapt.timm_sites import input_size

    if format not in ("onnx", "torch"):
        raise UserError(f"format={format!r} is unknown; use onnx or torch")
    return export_program(model, Path(path), form=format, size=input_size(model), about={})


def save_peft(model: "nn.Module", folder: str | Path) -> Path:
    """Writes lora, dora, vera or one-kernel karst as a folder that huggingface/peft loads on the same timm model.

    Raises: UserError where the method has no form in peft.
    """
    from karst_bench.adapt.peft_folder import to_peft

    return to_peft(model, Path(folder))


def load_peft(model: "nn.Module", folder: str | Path) -> "nn.Module":
    """Attaches what a peft folder (LoRA, DoRA, VeRA, LoKr) holds to a timm model without a method; same logits.

    Raises: UserError where the folder is damaged, of another model, or has options without a counterpart here.
    """
    from karst_bench.adapt.peft_read import put_peft, read_peft

    adapter = read_peft(model, folder)
    attach(model, adapter.method, extra="none", **adapter.hyper)
    put_peft(model, adapter)
    return model


def push_to_hub(
    folder: str | Path, repo: str, *, private: bool = False, token: str | None = None, endpoint: str | None = None
) -> str:
    """Uploads an adapter's folder to `owner/name` on the Hugging Face hub in one commit and returns the address.

    Raises: UserError where the folder is none or the hub refuses.
    """
    from karst_bench.adapt.hub import push_folder

    return push_folder(Path(folder), repo, private=private, token=token, endpoint=endpoint)


def _as_override(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "[" + ",".join(_as_override(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_as_override(item)}" for key, item in value.items()) + "}"
    return "null" if value is None else str(value)
