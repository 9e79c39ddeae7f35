"""An adapter onto a model: every check is made on a copy of the model's structure without values, before the model is touched."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from karst_bench.adapt.adapter_file import AdapterHeader, live_tensors, model_name, read_adapter_header, read_tensors
from karst_bench.adapt.attach import adapted_model, attach_methods, detach_methods, refuse_sharded
from karst_bench.adapt.model import TimmAdaptedModel
from karst_bench.adapt.timm_sites import model_spec
from karst_bench.adapt.weights_hash import known_hash
from karst_bench.errors import UserError
from karst_bench.methods.base import Artefact, Method, ModelSpec
from karst_bench.methods.build import build_methods
from karst_bench.nn.named_tensors import copy_tensors, refuse_misfit

REMEDY = "use the backbone, method and class count it was trained with"
MOST = 2**31  # trained scalars of a method whose count is known only when it is attached
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
          "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool}  # fmt: skip


def load_onto(net: nn.Module, path: str, *, allow_other_backbone: bool = False) -> AdapterHeader:
    """Attaches what the adapter holds to an unadapted model, or copies its values into one with the same method.

    Raises: UserError with both values where file and model differ; the model is as it was then.
    """
    refuse_sharded(net, "load the adapter")
    header = read_adapter_header(path)
    model: TimmAdaptedModel | None = getattr(net, "_adapted_model", None)
    if model is not None:
        if model.merged:
            raise UserError("the model is merged; call karst_bench.unmerge(model) before loading an adapter into it")
        _refuse_other_method(model, header)
    spec = model_spec(net) if model is None else model.spec
    _refuse_other_shape(header, spec, net)
    methods = _methods(header)
    _refuse_impossible_counts(header, methods, spec)
    tensors, artefacts = read_tensors(header)
    rehearsed = model if model is not None else _rehearsal(net, header, methods, artefacts)
    _refuse_other_tensors(header, live_tensors(rehearsed))
    if not allow_other_backbone:
        _refuse_other_weights(header, _frozen(net, rehearsed), net)
    _refuse_overflow(header, live_tensors(rehearsed), tensors)
    _fill(net, model, header, tensors, artefacts)
    return header


def _fill(
    net: nn.Module, model: TimmAdaptedModel | None, header: AdapterHeader, tensors: Mapping[str, Tensor],
    artefacts: Mapping[str, Artefact],
) -> None:  # fmt: skip
    """Attaches where nothing is attached yet and copies the values; whatever breaks off in between is taken back."""
    kept: dict[str, Tensor] = {}
    told = {"source": str(header.path), "remedy": REMEDY}
    try:
        if model is None:
            attach_methods(net, _methods(header), artefacts=artefacts, method_settings=header.method_settings)
            net.to(next(net.parameters()).device)
        live = live_tensors(adapted_model(net))
        kept = {name: tensor.clone() for name, tensor in live.items()}
        copy_tensors(live, tensors, **told)
    except BaseException:
        if kept:
            copy_tensors(live_tensors(adapted_model(net)), kept, **told)
        if model is None and hasattr(net, "_adapted_model"):
            detach_methods(net)
        raise


def _methods(header: AdapterHeader) -> list[Method]:
    try:
        return build_methods(header.method_settings)
    except UserError as error:
        raise UserError(f"{header.path}: {error}") from error
    except Exception as error:  # the settings are a stranger's
        raise UserError(f"{header.path}: its method cannot be built: {type(error).__name__}: {str(error)[:160]}") from error


def _rehearsal(
    net: nn.Module, header: AdapterHeader, methods: list[Method], artefacts: Mapping[str, Artefact]
) -> TimmAdaptedModel:
    """The methods attached to a twin without values: whatever cannot be attached shows here, and costs no memory."""
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            return attach_methods(without_values(net), methods, artefacts=artefacts)
    except UserError as error:
        raise UserError(f"{header.path}: {error}") from error
    except Exception as error:
        raise UserError(
            f"{header.path}: its method cannot be attached: {type(error).__name__}: {str(error)[:160]}; {REMEDY}"
        ) from error


def without_values(net: nn.Module) -> nn.Module:
    """A copy of a model's structure on the meta device."""
    memo: dict[int, Any] = {}
    for p in net.parameters():
        memo[id(p)] = nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad)
    for buffer in net.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(net, memo)


def _frozen(net: nn.Module, rehearsed: TimmAdaptedModel) -> dict[str, Tensor]:
    """The model's own weights that stay frozen beside this adapter."""
    if rehearsed.net is net:
        return dict(rehearsed.frozen())
    return {name: net.get_parameter(name) for name in rehearsed.frozen()}


def _refuse_other_method(model: TimmAdaptedModel, header: AdapterHeader) -> None:
    """A model that carries a method takes an adapter of the same settings: equal shapes alone do not say the same map."""
    if not model.method_settings:
        return
    for node, theirs in header.method_settings.items():
        ours = model.method_settings[node]
        keys = [key for key in sorted({*ours, *theirs}) if key != "about" and ours.get(key) != theirs.get(key)]
        if keys:
            key = "name" if "name" in keys else keys[0]
            raise UserError(
                f"{header.path} was trained with {node}.{key}={theirs.get(key)}, the model carries {node}.{key}="
                f"{ours.get(key)}; load it into a model without a method, which gets the adapter's own"
            )


def _refuse_other_shape(header: AdapterHeader, spec: ModelSpec, net: nn.Module) -> None:
    there, here = header.backbone, spec
    for what in ("family", "depth", "widths"):
        if getattr(there, what) != getattr(here, what):
            raise UserError(
                f"{header.path} was trained on {_named(there.name)}of {what} {getattr(there, what)}, this {model_name(net)} "
                f"has {getattr(here, what)}; use the backbone it was trained on"
            )


def _refuse_impossible_counts(header: AdapterHeader, methods: list[Method], spec: ModelSpec) -> None:
    """Ranks and counts that the file's own size contradicts, before a module is made of them."""
    stored = sum(entry.scalars for entry in header.tensors.values())
    free = any(method.scored or method.search_stages() for method in methods)
    try:
        wanted = sum(method.expected_params(spec) for method in methods)
    except UserError as error:
        raise UserError(f"{header.path}: {error}") from error
    except Exception as error:
        raise UserError(f"{header.path}: its method has no count here: {type(error).__name__}: {str(error)[:160]}") from error
    if wanted > (MOST if free else stored):
        raise UserError(
            f"{header.path}: {header.method} with its settings has {wanted:,} trained parameters, the file holds {stored:,}; "
            "it was damaged or put together from two: save the adapter again"
        )


def _refuse_other_tensors(header: AdapterHeader, live: Mapping[str, Tensor]) -> None:
    shapes = {name: entry.shape for name, entry in header.tensors.items()}
    refuse_misfit(live, shapes, source=str(header.path), remedy=REMEDY)
    for name, tensor in live.items():
        dtype = DTYPES[header.tensors[name].dtype]
        if dtype != tensor.dtype and not (dtype.is_floating_point and tensor.is_floating_point()):
            raise UserError(f"{header.path}: {name} is stored as {dtype}, the model holds {tensor.dtype}; save the adapter again")


def _refuse_overflow(header: AdapterHeader, live: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    for name, tensor in saved.items():
        kind = live[name].dtype
        if kind.is_floating_point and tensor.numel() and tensor.abs().max().item() > torch.finfo(kind).max:
            raise UserError(f"{header.path}: {name} holds values that {kind} has no room for; load it into a model in float32")


def _refuse_other_weights(header: AdapterHeader, frozen: Mapping[str, Tensor], net: nn.Module) -> None:
    found = known_hash(frozen, header.backbone.weights_sha256)
    if found is None:
        return
    theirs, ours = found
    if theirs is None:
        raise UserError(
            f"{header.path} was trained beside {', '.join(header.backbone.weights_sha256)} weights, which cannot be compared "
            "with these; load it in that precision, or give allow_other_backbone=true"
        )
    if theirs != ours:
        raise UserError(
            f"{header.path} was trained beside other weights: {_named(header.backbone.name)}{theirs[:16]}..., this "
            f"{model_name(net)} has {ours[:16]}...; load those weights, or give allow_other_backbone=true to use it all the same"
        )


def _named(name: str | None) -> str:
    return f"{name[:80]} " if name else "a backbone "
