"""A step on tensors that have a GPU's device and no values: what it would launch, keep and wait for, without a GPU.

Whatever mixes devices or reads a value on the host raises.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from karst_bench.adapt import linear_forms
from karst_bench.adapt.timm_compat import FakeTensorMode
from karst_bench.engine.objective import CrossEntropy
from karst_bench.engine.optim import Schedule, build_optimizer, param_groups
from karst_bench.engine.recipe import Recipe
from karst_bench.engine.step import train_step
from karst_bench.methods.base import Method

CASTS = ("_to_copy", "to", "detach", "alias", "lift_fresh", "device")


@lru_cache
def cuda_without_a_driver() -> bool:
    """Whether this torch (2.9 does) makes tensors of a CUDA device without values where there is no such device."""
    try:
        with FakeTensorMode():
            torch.zeros(1).cuda()
    except (RuntimeError, AssertionError):
        return False
    return True


class Watched(TorchDispatchMode):
    """Notes every operation but views and casts, with its arguments, and which of them made a tensor on the CPU, or, of a fused
    optimiser's, was given one."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[str, tuple[Any, ...]]] = []
        self.on_cpu: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().partition("::")[2]
        in_place = name.startswith("_fused_") and name.partition(".")[0].endswith("_")  # an optimiser's, which has no fake form
        out = tree_leaves([args, kwargs]) if in_place else func(*args, **(kwargs or {}))
        if not func.is_view and name.partition(".")[0] not in CASTS:
            self.operations.append((name, args))
        made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        if any(leaf.device.type == "cpu" and leaf.numel() for leaf in made):  # torch 2.11's checkpoint makes one of no elements
            self.on_cpu.append(name)
        return None if in_place else out


@contextmanager
def bf16_products() -> Iterator[None]:
    """Autocast on CUDA; torch.autocast itself refuses a device that is not there."""
    before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        if torch.autocast_decrement_nesting() == 0:
            torch.clear_autocast_cache()
        torch.set_autocast_enabled("cuda", before[0])
        torch.set_autocast_dtype("cuda", before[1])


def moved(net: nn.Module, device: str) -> nn.Module:
    """The model with every parameter and buffer there; to cuda it is called under FakeTensorMode(allow_non_fake_inputs=True)."""
    for module in net.modules():
        for name, tensor in list(module.named_parameters(recurse=False)):
            module._parameters[name] = nn.Parameter(torch.empty_like(tensor, device=device), tensor.requires_grad)
        for name, tensor in list(module.named_buffers(recurse=False)):
            module._buffers[name] = torch.empty_like(tensor, device=device)
    return net.train()


def forward(net: nn.Module, images: Tensor) -> Watched:
    """The forward pass in bf16 on a fake GPU; the model is left there."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        moved(net, "cuda")
        x = images.cuda()
        with Watched() as watched, bf16_products():
            net(x)
    return watched


def forward_and_backward(net: nn.Module, images: Tensor, *, methods: Sequence[Method] = ()) -> tuple[Watched, list[Tensor | None]]:
    """(what ran, the gradients) in the forms of a GPU, on the meta device: autograd asks a driver before it runs on a fake GPU.

    Reading a value raises there too, and a tensor made on the CPU is seen. The model is left there.
    """
    moved(net, "meta")
    trained = [p for p in net.parameters() if p.requires_grad]
    x, y = images.to("meta"), torch.zeros(len(images), dtype=torch.long, device="meta")
    with patch.object(linear_forms, "costs_of", lambda device: linear_forms.COSTS["cuda"]), Watched() as watched:
        loss = nn.functional.cross_entropy(net(x).float(), y)
        for method in methods:
            loss = loss + method.penalty()
        torch.autograd.backward(loss)
    return watched, [p.grad for p in trained]


def steps(net: nn.Module, images: Tensor, count: int, *, methods: Sequence[Method], recipe: Recipe) -> Watched:
    """`count` steps of training as they are captured, their rate set before each, on a fake GPU: loss, penalties, clipping and
    optimiser run as they are, and backward, which would ask a driver, leaves gradients without values. The model is left there."""
    def leave_gradients(loss: Tensor) -> None:
        assert loss.device.type == "cuda" and loss.requires_grad
        for p in net.parameters():
            p.grad = torch.empty_like(p) if p.requires_grad else None

    with FakeTensorMode(allow_non_fake_inputs=True):
        moved(net, "cuda")
        named = [(name, p) for name, p in net.named_parameters() if p.requires_grad]
        optimizer = build_optimizer(param_groups(named, methods, recipe), recipe, captured=True)
        schedule, objective = Schedule(optimizer, recipe, count), CrossEntropy(recipe, "fp32")
        x, y = images.cuda(), torch.zeros(len(images), dtype=torch.long).cuda()
        with Watched() as watched, bf16_products(), patch.object(torch.autograd, "backward", leave_gradients):
            for step in range(count):
                schedule.set(0, step)
                train_step(net, x, y, methods=methods, optimizer=optimizer, recipe=recipe, objective=objective)
                for method in methods:
                    method.after_step(step, count)
    return watched


def fused_attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
                    **more: Any) -> Tensor:  # fmt: skip
    """What a GPU takes for bf16: without a device torch would count the products one by one, whose scores are kept."""
    if attn_mask is None:
        return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, dropout_p, **more)[0]  # type: ignore[no-any-return]
    bias = attn_mask.expand(*query.shape[:-1], key.shape[-2]).to(query.dtype)
    return torch.ops.aten._scaled_dot_product_efficient_attention(query, key, value, bias, True, dropout_p, **more)[0]  # type: ignore[no-any-return]


def kept_bytes(net: nn.Module, images: Tensor) -> dict[str, int]:
    """Bytes that a step in bf16 keeps: activations and cast or merged weights for backward, each storage once, and parameters."""
    kept: dict[int, Tensor] = {}
    with FakeTensorMode(allow_non_fake_inputs=True):
        moved(net, "cuda")
        own = {t.untyped_storage()._cdata for t in [*net.parameters(), *net.buffers()]}

        def keep(tensor: Tensor) -> None:
            """Nothing is handed to the graph, which never runs backward."""
            storage = tensor.untyped_storage()
            if storage._cdata not in own:
                kept.setdefault(storage._cdata, tensor)

        x = images.cuda()
        hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda nothing: nothing)
        try:
            with hooks, bf16_products(), patch.object(nn.functional, "scaled_dot_product_attention", fused_attention):
                net(x)
            total = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
        finally:
            kept.clear()  # the graph's nodes hold `keep`: with a node's own output in it the graph would live for ever
        parameters = sum(p.numel() * p.element_size() for p in net.parameters())
    return {"kept_bytes": total, "parameter_bytes": parameters}
