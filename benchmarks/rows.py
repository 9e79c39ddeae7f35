"""The models that are compared: each row is one way to train the same backbone."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from karst_bench.adapt.attach import attach_methods
from karst_bench.adapt.layers import AdaptedLayer
from karst_bench.adapt.scoring import score_methods
from karst_bench.adapt.speed.activation_recompute import recompute
from karst_bench.adapt.speed.cls_token_block import class_token_only
from karst_bench.config.compose import settings_of
from karst_bench.methods.build import build_methods
from karst_bench.methods.karst import Karst
from karst_bench.methods.lora import LoRA
from karst_bench.methods.rst import RST

CLASSES = 100


@dataclass(frozen=True)
class Case:
    """One backbone at one batch size; depth=None is the whole model."""

    model: str
    batch: int
    depth: int | None = None

    def net(self) -> nn.Module:
        depth = {} if self.depth is None else {"depth": self.depth}
        torch.manual_seed(0)
        net: nn.Module = timm.create_model(self.model, num_classes=CLASSES, drop_path_rate=0.0, **depth)
        return net


class _Started(torch.autograd.Function):
    """The identity; its output counts as trained, so the backward pass comes as far as here and no further.

    The anchor is given one element of the gradient: a compiler leaves out a backward pass that nothing depends on.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[None, Tensor]:
        return None, grad[0].flatten()[0]


class Differentiable(nn.Module):
    """Hands on its base's output as if something before it trained, so that gradients run through all blocks.

    Written so that a compiler follows it: requires_grad_() on a tensor in the middle of a step ends a graph.
    """

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.anchor = nn.Parameter(torch.zeros(()))

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base"), name)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = _Started.apply(self.base(x), self.anchor)
        return y


class StraightForm(nn.Module):
    """The published arithmetic: a Kronecker product per kernel, summed, added to W0; then the affine on the output."""

    def __init__(self, wrapper: AdaptedLayer) -> None:
        super().__init__()
        self.wrapper = wrapper

    def forward(self, x: Tensor) -> Tensor:
        base: Any = self.wrapper.base
        weight = base.weight
        for update in self.wrapper.deltas:
            weight = weight + update.delta(base.weight)  # type: ignore[operator]
        y = F.linear(x, weight, base.bias)
        for affine in self.wrapper.after:
            y = affine(y)
        return y


def floor(case: Case) -> nn.Module:
    net: Any = case.net().requires_grad_(False)
    net.patch_embed = Differentiable(net.patch_embed)
    net.get_classifier().requires_grad_(True)
    return net


def head_only(case: Case) -> nn.Module:
    net: Any = case.net().requires_grad_(False)
    net.get_classifier().requires_grad_(True)
    return net


def full(case: Case) -> nn.Module:
    return case.net()


def lora(case: Case) -> nn.Module:
    net = case.net()
    attach_methods(net, [LoRA(name="lora", r=8, s=1.0, dropout=0.0, sites="qkv_fused")])
    class_token_only(net)
    return net


def lora_all(case: Case) -> nn.Module:
    net = case.net()
    attach_methods(net, [LoRA(name="lora_all", r=8, s=1.0, dropout=0.0, sites="all")])
    class_token_only(net)
    return net


def lora_peft(case: Case, *sites: str) -> nn.Module:
    """Put into the model itself: its wrapper around a model is not followed by torch 2.15's compiler."""
    from peft import LoraConfig, inject_adapter_in_model

    settings = LoraConfig(r=8, lora_alpha=8, target_modules=list(sites))
    net: Any = inject_adapter_in_model(settings, case.net())
    net.get_classifier().requires_grad_(True)
    return net  # type: ignore[no-any-return]


def of_method(case: Case, name: str) -> nn.Module:
    """The backbone with a method of conf/method, as a run attaches it; a scored one is given two random batches."""
    settings = settings_of([f"method={name}"]).as_config()
    net, attached = case.net(), build_methods({node: settings[node] for node in ("method", "also", "extra")})
    size: Any = net.patch_embed.img_size  # type: ignore[union-attr]
    batch = torch.randn(4, 3, *size), torch.arange(4)
    artefacts = score_methods(case.net(), attached, lambda _: [batch]) if any(m.scored for m in attached) else {}
    attach_methods(net, attached, artefacts=artefacts)
    class_token_only(net)
    return net


def lokr_lycoris(case: Case) -> nn.Module:
    """LoKr with one kernel on the four linears of every block."""
    logging.disable(logging.WARNING)
    from lycoris import LycorisNetwork, create_lycoris

    net: Any = case.net().requires_grad_(False)
    net.get_classifier().requires_grad_(True)
    LycorisNetwork.TARGET_EXCLUDE_NAME = ["head", "head.fc", "patch_embed.proj"]
    added = create_lycoris(net, 1.0, linear_dim=8, linear_alpha=8, algo="lokr", factor=8, preset="full")
    added.apply_to()
    net.lycoris = added
    return net


def karst(case: Case, *, short: bool = True, N: int = 2, r: int = 8, m: int = 8) -> nn.Module:
    net = case.net()
    sites = ["qkv", "proj", "fc1", "fc2"]
    methods = [
        Karst(name="karst", N=N, m=m, r=r, sigma=1.0, sites=sites, qkv_mode="split_A_shared_B", share_c="none",
              train_norms=False, init="gaussian"),
        RST(name="rst", sites=["proj", "fc2"], granularity="channel"),
    ]  # fmt: skip
    attach_methods(net, methods)
    if short:
        class_token_only(net)
    return net


def karst_recomputed(case: Case) -> nn.Module:
    net = karst(case)
    recompute(net)
    return net


def karst_straight(case: Case) -> nn.Module:
    net = karst(case, short=False)
    for path, module in list(net.named_modules()):
        if isinstance(module, AdaptedLayer):
            net.set_submodule(path, StraightForm(module))
    return net


ROWS: dict[str, Callable[[Case], nn.Module]] = {
    "floor": floor,
    "floor again (A/A)": floor,
    "head only": head_only,
    "LoRA qkv r 8, ours": lora,
    "LoRA qkv r 8, peft": lambda case: lora_peft(case, "qkv"),
    "LoRA on four linears r 8, ours": lora_all,
    "LoRA on four linears r 8, peft": lambda case: lora_peft(case, "qkv", "attn.proj", "fc1", "fc2"),
    "LoKr, lycoris": lokr_lycoris,
    "KARST, published arithmetic (a)": karst_straight,
    "KARST, ours, all tokens": lambda case: karst(case, short=False),
    "KARST, ours": karst,
    "KARST, ours, recompute": karst_recomputed,
    "full": full,
}
