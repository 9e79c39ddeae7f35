"""Several adapters on one backbone, one of them in the model at a time; and none of them for a while."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from karst_bench.adapt.attach import adapted_model, detach_methods
from karst_bench.adapt.model import TimmAdaptedModel
from karst_bench.errors import UserError

DEFAULT = "default"  # what the adapter is called that nobody named


@dataclass
class AdapterShelf:
    """The adapters of a model by name, with the head that each was trained with; active: the one that is in the model."""

    active: str | None = None
    models: dict[str, TimmAdaptedModel] = field(default_factory=dict)
    heads: dict[str, dict[str, Tensor]] = field(default_factory=dict)


def shelf_of(net: nn.Module) -> AdapterShelf:
    """The shelf of a model, on which what is attached lies as `default` where it was not named."""
    shelf: AdapterShelf | None = getattr(net, "_adapter_shelf", None)
    if shelf is None:
        shelf = AdapterShelf()
        net._adapter_shelf = shelf  # type: ignore[assignment]
    current: TimmAdaptedModel | None = getattr(net, "_adapted_model", None)
    if current is None or shelf.models.get(shelf.active or "") is not current:  # detached or attached meanwhile
        shelf.models.pop(shelf.active or "", None)
        shelf.active = None if current is None else DEFAULT
        if current is not None:
            shelf.models[DEFAULT] = current
    return shelf


@contextmanager
def shelved(net: nn.Module, name: str) -> Iterator[None]:
    """Within, another adapter is attached to the backbone alone, and is called `name` from then on; fails, and all is as before.

    Raises: UserError for a name that is taken, and for a method that changes the backbone's own parameters beside another.
    """
    shelf = shelf_of(net)
    if name in shelf.models:
        raise UserError(f"adapter_name={name!r} is taken; names: {', '.join(shelf.models)}")
    before = shelf.active
    if before is not None:
        _put_away(net, shelf)
    try:
        yield
        if shelf.models and (own := adapted_model(net).own_trained()):
            detach_methods(net)
            raise _changes_in_place(own)
    except BaseException:
        if before is not None:
            _take_out(net, shelf, before)
        raise
    shelf.active, shelf.models[name] = name, adapted_model(net)


def select_adapter(net: nn.Module, name: str) -> None:
    """Puts the adapter of that name, with its head, in the place of the one that is in the model. Raises: UserError."""
    shelf = shelf_of(net)
    if name not in shelf.models:
        raise UserError(f"no adapter is called {name!r}; names: {', '.join(shelf.models) or 'none'}")
    if shelf.active == name:
        return
    if shelf.active is not None:
        _put_away(net, shelf)
    _take_out(net, shelf, name)


@contextmanager
def without_adapter(net: nn.Module) -> Iterator[nn.Module]:
    """Within, the model is the frozen backbone under the head that was trained. Raises: UserError as `_refuse` does."""
    model = adapted_model(net)
    _refuse(model)
    model.suspend()
    del net._adapted_model
    try:
        yield net
    finally:
        model.resume()
        net._adapted_model = model  # type: ignore[assignment]
        net.train(net.training)


def _put_away(net: nn.Module, shelf: AdapterShelf) -> None:
    model = adapted_model(net)
    _refuse(model)
    assert shelf.active is not None
    shelf.heads[shelf.active] = {name: p.detach().clone() for name, p in model.head().items()}
    model.suspend()
    del net._adapted_model
    shelf.active = None


def _take_out(net: nn.Module, shelf: AdapterShelf, name: str) -> None:
    model = shelf.models[name]
    model.resume()
    net._adapted_model = model  # type: ignore[assignment]
    with torch.no_grad():
        for key, p in model.head().items():
            p.copy_(shelf.heads[name][key])
    shelf.active = name
    net.to(next(p for p in net.parameters() if p.device.type != "meta").device)
    net.train(net.training)


def _refuse(model: TimmAdaptedModel) -> None:
    if model.merged:
        raise UserError("the model is merged, so that backbone and adapter are one; call karst_bench.unmerge(model) first")
    if own := model.own_trained():
        raise _changes_in_place(own)


def _changes_in_place(own: list[str]) -> UserError:
    return UserError(f"this method trains the backbone's own parameters ({own[0]} and {len(own) - 1} more), which are changed in "
                     "place: it is not one of several, and cannot be left out for a while; use a copy of the model")  # fmt: skip


def trained_counts(net: nn.Module) -> tuple[int, int, int]:
    """(scalars that the methods train, those of the head, all of the model)."""
    model = adapted_model(net)
    method, head = (sum(p.numel() for p in found.values() if p.requires_grad) for found in (model.trained(), model.head()))
    return method, head, sum(p.numel() for p in net.parameters())
