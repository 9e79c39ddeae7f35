"""Puts methods onto an unmodified timm ViT or Swin, and finds what was put there."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from karst_bench.adapt.model import TimmAdaptedModel
from karst_bench.adapt.timm_compat import is_plain_layer_norm
from karst_bench.errors import UserError
from karst_bench.methods.base import Artefact, Method, ModelSpec
from karst_bench.nn.bias_norm import BiasTrainedNorm


def attach_methods(
    net: nn.Module, methods: Sequence[Method], *, artefacts: Mapping[str, Artefact] | None = None,
    method_settings: Mapping[str, Any] | None = None,
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
            "a method is already attached to this model; give several methods to one attach call, or take it out first: "
            "karst_bench.detach(model)"
        )
    found = dict(artefacts or {})
    model = TimmAdaptedModel(net)
    try:
        refuse_misfits(methods, model.spec)
        for method in methods:
            if method.scored and method.name not in found and next(net.parameters()).device.type != "meta":
                raise UserError(
                    f"{method.name} is attached from a scoring pre-pass over training images, and there was none; give attach "
                    "its scoring=(images, labels) batches, or use a run, which makes the pre-pass itself"
                )
            model.attaching = method.name
            method.attach(model, found.get(method.name))
        _split_bias_norms(net, model)
    except BaseException:
        model.undo()
        raise
    model.method_settings = dict(method_settings or {})
    model.artefacts = found
    net.train(net.training)  # what was added takes the mode of the model it was added to
    net._adapted_model = model  # type: ignore[assignment]
    return model


def detach_methods(net: nn.Module) -> None:
    """Takes the methods out of a model: its modules, attributes and requires_grad are those of before, its trained values stay.

    A merged model stays as it is. Raises: UserError on a model without a method.
    """
    model = adapted_model(net)
    if not model.merged:
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
            raise UserError(
                f"{method.name} is defined for {' and '.join(sorted(method.families))}, the backbone is a {spec.family}; "
                "choose another backbone or method"
            )
        if method.needs_cls and not spec.class_token:
            raise UserError(f"{method.name} reads the class token, which this {spec.model} ({spec.family}) does not have; use a "
                            "ViT with one")  # fmt: skip
        if not method.composable and len(methods) > 1:
            others = ", ".join(other.name for other in methods if other is not method)
            raise UserError(f"{method.name} leaves nothing frozen for {others} to adapt; run it with also=none extra=none")
    tokens = [method.name for method in methods if method.changes_tokens]
    grids = [method.name for method in methods if method.needs_grid]
    if len(tokens) > 1 or (tokens and grids):
        raise UserError(
            f"{' and '.join(tokens + grids)} do not hold together: one changes the token sequence that another relies on; "
            "attach one of them"
        )


def adapted_model(net: nn.Module) -> TimmAdaptedModel:
    """The adapted model of a model with a method. Raises: UserError if there is none."""
    model: TimmAdaptedModel | None = getattr(net, "_adapted_model", None)
    if model is None:
        raise UserError(f"this {type(net).__name__} carries no method; call karst_bench.attach(model, name) first")
    return model
