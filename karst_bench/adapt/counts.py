"""Counts what a method adds: trained scalars, stored bits, multiply-adds. One number never tells it all."""

import copy
import gc
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from karst_bench.adapt.attach import adapted_model
from karst_bench.adapt.block_hooks import HookedBlock
from karst_bench.adapt.timm_compat import FakeTensor, FakeTensorMode
from karst_bench.adapt.timm_sites import head_parameters
from karst_bench.methods.base import Method
from karst_bench.nn.eval_mode import eval_mode


def counts(net: nn.Module, methods: Sequence[Method]) -> dict[str, int]:
    """trainable_params (head excluded) and head_params; stored_bits, active_params, update_nonzeros where methods say them.

    Where one of several methods says its bits or what is active, the others count 32 bits a trained scalar, and all of
    them as active; entries that change are counted of those that say them.
    """
    model = adapted_model(net)
    found = {
        "trainable_params": sum(p.numel() for p in model.trained().values()),
        "head_params": sum(p.numel() for p in model.head().values()),
    }
    spec = model.spec
    for key, own, each in (
        ("stored_bits", [method.stored_bits(spec) for method in methods], 32),
        ("active_params", [method.active_params(spec) for method in methods], 1),
    ):
        if any(value is not None for value in own):
            found[key] = sum(
                each * method.expected_params(spec) if value is None else value
                for value, method in zip(own, methods, strict=True)
            )
    changed = [value for method in methods if (value := method.update_nonzeros(spec)) is not None]
    return found | ({"update_nonzeros": sum(changed)} if changed else {})


def trained_now(net: nn.Module) -> dict[str, int]:
    """trainable_params as the model's own flags say them, whatever its methods would count."""
    head = head_parameters(net)
    return {"trainable_params": sum(p.numel() for p in net.parameters() if p.requires_grad and id(p) not in head)}


def training_counts(net: nn.Module, size: tuple[int, int]) -> dict[str, int]:
    """saved_bytes_per_image: what autograd keeps of an image for backward, each tensor once, the model's own not counted;
    blocks_without_graph: whose output needs no gradient. Of two images in train mode; shapes are followed, nothing is computed.

    Tensors that torch.utils.checkpoint holds by itself are not seen. On a GPU an upper bound where a method trains gains.
    """
    device = next(net.parameters()).device
    device = torch.device("meta") if device.type == "cpu" else device
    mode = _FusedAttention() if device.type == "meta" else FakeTensorMode(allow_non_fake_inputs=True)
    net = _without_values(net, device, mode)
    own = {_storage(tensor) for tensor in (*net.parameters(), *net.buffers())}
    kept: dict[int, Tensor] = {}
    graphless: list[bool] = []

    def keep(tensor: Tensor) -> None:
        """Nothing is handed to the graph, which never runs backward."""
        if (tensor.is_meta or isinstance(tensor, FakeTensor)) and _storage(tensor) not in own:
            kept[_storage(tensor)] = tensor

    modes = [(module, module.training) for module in net.modules()]
    hooks = [block.register_forward_hook(lambda _, __, out: graphless.append(not out.requires_grad)) for block in _blocks(net)]
    net.train()
    try:
        with _uncollected(), torch.enable_grad(), mode, saved_tensors_hooks(keep, lambda nothing: nothing):
            net(torch.zeros(2, 3, *size, device=device))
        total = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    finally:
        kept.clear()  # the graph's nodes hold `keep`: with a node's own output in it the graph, and the model, would live for ever
        for hook in hooks:
            hook.remove()
        for module, training in modes:
            module.training = training
    return {"saved_bytes_per_image": total // 2, "blocks_without_graph": sum(graphless)}


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the garbage collector, which thousands of tensors that only say their shape would set off again and again."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def _without_values(net: nn.Module, device: torch.device, mode: AbstractContextManager[object]) -> nn.Module:
    """The model, or a copy of a real one whose parameters and buffers are made in that mode and hold nothing."""
    if next(net.parameters()).is_meta:
        return net
    with mode:
        made: dict[int, object] = {id(buffer): torch.empty_like(buffer, device=device) for buffer in net.buffers()}
        made |= {id(p): nn.Parameter(torch.empty_like(p, device=device), p.requires_grad) for p in net.parameters()}
    return copy.deepcopy(net, made)  # outside of it: tensors that are neither, as what scored methods found, have values


class _FusedAttention(TorchFunctionMode):
    """Attention of tensors without values as a CPU computes it: fused wherever torch has that form there, which on the meta
    device it never takes."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is nn.functional.scaled_dot_product_attention and (fused := self._fused(*args, **kwargs)) is not None:
            return fused
        return func(*args, **kwargs)

    def _fused(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
        is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
    ) -> Tensor | None:  # fmt: skip
        same = query.dim() == 4 and query.shape[-1] == key.shape[-1] == value.shape[-1]
        if not same or dropout_p or enable_gqa or (attn_mask is not None and attn_mask.requires_grad):
            return None
        fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        found: Tensor = fused(query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale)[0]
        return found


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _blocks(net: nn.Module) -> list[nn.Module]:
    """The backbone's blocks as they compute, without what hooks add behind them."""
    found = [net.get_submodule(path) for path in adapted_model(net).spec.blocks]
    return [block.base if isinstance(block, HookedBlock) else block for block in found]


def forward_macs(net: nn.Module, size: tuple[int, int]) -> int:
    """Multiply-adds of one image through the model as it stands; shapes are followed, nothing is computed."""
    device = next(net.parameters()).device
    shapes_only = nullcontext() if device.type == "meta" else FakeTensorMode(allow_non_fake_inputs=True)
    fused = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}
    training = [p for p in net.parameters() if p.requires_grad]
    try:
        for p in training:  # torch's counter asks for the gradient of one that is a module's input, as in attention pooling
            p.requires_grad_(False)
        with eval_mode(net), shapes_only, FlopCounterMode(display=False, custom_mapping=fused) as counter:
            net(torch.zeros(1, 3, *size, device=device))
    finally:
        for p in training:
            p.requires_grad_(True)
    return int(counter.get_total_flops()) // 2


def _attention_flops(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: object, **__: object) -> int:
    """Q K^T and its product with V, (..., n, d) (..., m, d) (..., m, e): a CPU's fused form, unknown to torch 2.11."""
    return 2 * prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def site_rows(net: nn.Module) -> list[dict[str, Any]]:
    """What stands where, a row for each wrapped module: site, parts, trained scalars (shared ones at their first site)."""
    model, seen = adapted_model(net), set[int]()
    rows = []
    for path, wrapper in model.layers.items():
        parts = [*wrapper.before, *wrapper.deltas, *wrapper.branches, *wrapper.after]
        names = " + ".join(type(part).__name__ for part in parts)
        own = {id(p): p for part in parts for p in part.parameters() if id(p) not in seen}
        seen |= own.keys()
        rows.append({"site": path, "parts": names, "params": sum(p.numel() for p in own.values())})
    return rows
