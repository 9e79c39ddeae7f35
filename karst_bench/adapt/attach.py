"""Puts methods onto an unmodified timm ViT or Swin, and finds what was put there."""

from collections.abc import Mapping, Sequence

from torch import nn

from karst_bench.adapt.block_hooks import AttentionRecorder, HookedBlock
from karst_bench.adapt.layers import AdaptedLayer
from karst_bench.adapt.model import TimmAdaptedModel
from karst_bench.adapt.readout import FirstToken, Readout
from karst_bench.adapt.residual import InputRecorder, Residual
from karst_bench.adapt.timm_compat import is_plain_layer_norm, register_notrace_module
from karst_bench.adapt.window_tokens import PooledPrompts, WindowTokens
from karst_bench.errors import MisfitError, UserError
from karst_bench.methods.base import Artefact, Method, ModelSpec
from karst_bench.nn.bias_norm import BiasTrainedNorm
from karst_bench.nn.model_spec import STANDARD
from karst_bench.nn.named_tensors import is_sharded

# what torch.fx, by way of timm's feature extractors, takes as one operation: control flow within follows its inputs
for module_class in (AdaptedLayer, AttentionRecorder, BiasTrainedNorm, FirstToken, HookedBlock, InputRecorder, PooledPrompts,
                     Readout, Residual, WindowTokens):  # fmt: skip
    register_notrace_module(module_class)

FAMILIES = {"vit": "plain ViTs", "swin": "hierarchical ones such as Swin"}


def attach_methods(
    net: nn.Module, methods: Sequence[Method], *, artefacts: Mapping[str, Artefact] | None = None,
    method_settings: Mapping[str, object] | None = None,
) -> TimmAdaptedModel:  # fmt: skip
    """Freezes the backbone, attaches the methods in order and returns the adapted model, which is also kept on the model.

    artefacts: what scored methods found, by method name; only a model without values (meta) does without.
    method_settings: the methods' settings as plain data, stored with a saved adapter. The classifier trains.
    Raises: UserError where a method does not fit the family or the company it is in, or was not scored. Whatever is raised,
    the model is then as it was.
    """
    old: TimmAdaptedModel | None = getattr(net, "_adapted_model", None)
    if old is not None and not old.merged:
        raise UserError(
            "a method is already attached to this model; name several methods in one call of attach, or take the first one out "
            "with karst_bench.detach(model)"
        )
    refuse_sharded(net, "attach the method")
    found = dict(artefacts or {})
    frozen = [p for p in net.parameters() if not p.requires_grad]
    if old is not None:
        old.thaw()
    model = TimmAdaptedModel(net)
    try:
        model.freeze()
        refuse_misfits(methods, model.spec)
        for method in methods:
            _attach(method, model, found)
        _split_bias_norms(net, model)
        net.train(net.training)  # what was added takes the mode of the model it was added to
    except BaseException:
        model.undo()
        for p in frozen:
            p.requires_grad_(False)
        raise
    model.method_settings = dict(method_settings or {})
    model.artefacts = found
    net._adapted_model = model  # type: ignore[assignment]
    return model


def _attach(method: Method, model: TimmAdaptedModel, found: Mapping[str, Artefact]) -> None:
    if method.scored and method.name not in found and next(model.net.parameters()).device.type != "meta":
        raise UserError(
            f"{method.name} needs a scoring pass over training images before it is attached; give attach labelled batches, "
            "scoring=[(images, labels), ...], or start a run, which does that pass itself"
        )
    try:
        method.attach(model, found.get(method.name))
    except MisfitError as error:
        raise error.of(method.name, model.spec.model) from error


def detach_methods(net: nn.Module) -> None:
    """Takes the methods out of a model: its modules, attributes and requires_grad are those of before, its trained values stay.

    A merged model stays as it is. Raises: UserError on a model without a method.
    """
    model = adapted_model(net)
    if model.merged:
        model.thaw()
    else:
        model.undo()
    del net._adapted_model


def _split_bias_norms(net: nn.Module, model: TimmAdaptedModel) -> None:
    """A norm whose bias alone trains, as BitFit's, gives way to one whose gradient every device can compute."""
    for parent in list(net.modules()):
        for name, norm in list(parent.named_children()):
            if is_plain_layer_norm(norm) and isinstance(norm, nn.LayerNorm) and _trains_bias_alone(norm):
                model.replaced(parent, name, BiasTrainedNorm.of(norm))


def _trains_bias_alone(norm: nn.LayerNorm) -> bool:
    weight, bias = norm.weight, norm.bias
    return weight is not None and bias is not None and bias.requires_grad and not weight.requires_grad


def refuse_misfits(methods: Sequence[Method], spec: ModelSpec) -> None:
    """Raises a UserError with the reason where a method cannot stand on this family or beside the others."""
    for method in methods:
        if spec.family not in method.families:
            defined = " and ".join(FAMILIES[family] for family in sorted(method.families))
            raise MisfitError(
                f"the method is defined for {defined}, not for {FAMILIES[spec.family]}; use another backbone or another method"
            ).of(method.name, spec.model)
        if method.needs_cls and not spec.class_token:
            raise MisfitError(
                f"the method reads the class token, but this model has none; use a model with a class token, {STANDARD}"
            ).of(method.name, spec.model)
        if not method.composable and len(methods) > 1:
            others = ", ".join(other.name for other in methods if other is not method)
            raise UserError(f"{method.name} leaves nothing frozen for {others} to adapt; run it with also=none extra=none")
    tokens = [method.name for method in methods if method.changes_tokens]
    grids = [method.name for method in methods if method.needs_grid]
    if len(tokens) > 1 or (tokens and grids):
        raise UserError(
            f"{' and '.join(tokens + grids)} cannot be combined: one changes the token sequence that another relies on; attach "
            "only one of them"
        )


def adapted_model(net: nn.Module) -> TimmAdaptedModel:
    """The adapted model of a model with a method. Raises: UserError if there is none."""
    model: TimmAdaptedModel | None = getattr(net, "_adapted_model", None)
    if model is None:
        inside = hasattr(getattr(net, "module", None), "_adapted_model")
        remedy = "give the model in it, model.module" if inside else "call karst_bench.attach(model, name) first"
        raise UserError(f"this {type(net).__name__} carries no method; {remedy}")
    return model


def refuse_sharded(net: nn.Module, what: str) -> None:
    """Raises a UserError on a model whose parameters FSDP has cut into pieces."""
    if is_sharded(net.parameters()):
        raise UserError(f"this {type(net).__name__} is sharded already; {what} before fully_shard")
