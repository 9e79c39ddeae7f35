"""A run's state as flat tensors and JSON-able meta data, fit for safetensors: no pickle."""

import math
from collections.abc import Mapping
from typing import Any, TypedDict

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from karst_bench.engine.streams import Streams, global_states, set_global_states
from karst_bench.errors import UserError
from karst_bench.nn.named_tensors import copy_tensors, refuse_misfit

ENTRIES: dict[type[Optimizer], set[str]] = {AdamW: {"step", "exp_avg", "exp_avg_sq"}, SGD: {"momentum_buffer"}}
REMEDY = "resume with the configuration that wrote it, or delete it to start anew"


class State(TypedDict):
    """tensors: name -> tensor on the CPU, owned by this state; meta: anything that JSON can hold. A plain dict."""

    tensors: dict[str, Tensor]
    meta: dict[str, Any]


def new_state(tensors: Mapping[str, Tensor] | None = None, meta: Mapping[str, object] | None = None) -> State:
    """A state of these tensors and meta data, empty where not given."""
    return State(tensors=dict(tensors or {}), meta=dict(meta or {}))


def nest(parts: Mapping[str, State]) -> State:
    """Put named states into one: tensors under `name/key`, meta data under `name`."""
    tensors = {f"{name}/{key}": t for name, part in parts.items() for key, t in part["tensors"].items()}
    return new_state(tensors, {name: part["meta"] for name, part in parts.items()})


def part(state: State, name: str) -> State:
    """The state that `nest` put under this name; an empty one if there is none."""
    prefix = f"{name}/"
    tensors = {key.removeprefix(prefix): t for key, t in state["tensors"].items() if key.startswith(prefix)}
    return new_state(tensors, state["meta"].get(name, {}))


def trained(model: nn.Module) -> dict[str, Tensor]:
    """What training changes, by name: parameters that need a gradient (shared ones once) and persistent buffers."""
    stored = model.state_dict(keep_vars=True).keys()
    live: dict[str, Tensor] = {name: p for name, p in model.named_parameters() if p.requires_grad}
    live |= {name: b for name, b in model.named_buffers() if name in stored}
    return live


def copy_out(live: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous copies on the CPU."""
    return {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in live.items()}


def copy_in(live: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    """Write saved tensors into the live ones, in place.

    Raises: UserError if names or shapes differ (another method, backbone or option than the checkpoint's).
    """
    copy_tensors(live, saved, source="checkpoint", remedy=REMEDY)


def fitting(live: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    """Raises: UserError as `copy_in`, which is to come later."""
    refuse_misfit(live, {name: tuple(t.shape) for name, t in saved.items()}, source="checkpoint", remedy=REMEDY)


def optimizer_out(optimizer: Optimizer, names: Mapping[int, str]) -> dict[str, Tensor]:
    """The optimiser's tensors as `parameter name:key`; names maps id(parameter) to its name."""
    return {
        f"{names[id(p)]}:{key}": t.detach().cpu().clone()
        for p, entry in optimizer.state.items()
        for key, t in entry.items()
        if isinstance(t, Tensor)
    }


def optimizer_in(optimizer: Optimizer, names: Mapping[int, str], saved: Mapping[str, Tensor]) -> None:
    """Give the optimiser back what `optimizer_out` took.

    Raises: UserError where it is not of these parameters: fused steps write past the end of a moment that is too short.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    index = {names[id(p)]: i for i, p in enumerate(parameters)}
    state: dict[int, dict[str, Tensor]] = {}
    for key, t in saved.items():
        name, _, entry = key.rpartition(":")
        if name not in index:
            raise UserError(f"checkpoint: optimiser state for {name}, which does not train here; delete the checkpoint")
        p = parameters[index[name]]
        if entry == "step":
            fits = t.ndim == 0 and t.dtype == torch.float32 and 0 < float(t) < math.inf
        else:
            fits = (t.shape, t.dtype) == (p.shape, p.dtype)
        if not fits:
            what = f"{entry[:40]} of {name} is {t.dtype} {tuple(t.shape)} for {p.dtype} {tuple(p.shape)}"
            raise UserError(f"checkpoint: {what}; {REMEDY}")
        state.setdefault(index[name], {})[entry] = t.clone()
    for i, entries in state.items():
        if entries.keys() != ENTRIES[type(optimizer)]:
            raise UserError(f"checkpoint: {names[id(parameters[i])]} has no whole state of {type(optimizer).__name__}; {REMEDY}")
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def random_out(streams: Streams, device: torch.device) -> dict[str, Tensor]:
    """The state of every generator of the run, the global ones included."""
    return {name: generator.get_state() for name, generator in streams.named().items()} | global_states(device)


def random_in(streams: Streams, device: torch.device, saved: Mapping[str, Tensor]) -> None:
    """Set every generator to its saved state."""
    for name, generator in streams.named().items():
        generator.set_state(saved[name])
    set_global_states(saved, device)
