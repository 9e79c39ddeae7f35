"""Tiny models of every structure that timm's ViT-like and Swin-like names have, and what tells structures apart."""

from functools import cache
from typing import Any

import timm
import torch
from torch import nn

from karst_bench.adapt.joined_qkv import is_apart
from karst_bench.adapt.timm_sites import final_norms, model_spec
from karst_bench.config.compose import settings_of
from karst_bench.config.option_files import options

CLASSES = 5
FIT = {"karst": ("method.m=4",), "oft": ("method.b=4",), "lst": ("method.r=2",)}  # what the tiny widths want
WIDE = {"embed_dim": 32, "depth": 2, "num_heads": 2}
SMALL = WIDE | {"img_size": 32, "patch_size": 8}
STAGES = {"img_size": 32, "embed_dim": 16, "num_heads": (1, 2, 4, 8)}
SWIN = STAGES | {"patch_size": 2, "window_size": 4, "depths": (2, 1, 1, 1)}

HYBRIDS = ("vit_tiny_r_", "vit_small_r", "vit_base_r2", "vit_base_r5", "vit_large_r", "vit_base_resnet", "vit_base_mci", "vitamin")

# label -> (timm's name, arguments that make it small)
TINY: dict[str, tuple[str, dict[str, Any]]] = {
    "ViT, class token": ("vit_base_patch16_224", SMALL),
    "ViT, mean of patches": ("vit_base_patch16_224", SMALL | {"global_pool": "avg"}),
    "ViT, mean and maximum": ("vit_base_patch16_224", SMALL | {"global_pool": "avgmax"}),
    "ViT, attention pooling with a class token": ("vit_base_patch16_224", SMALL | {"global_pool": "map"}),
    "SigLIP, attention pooling": ("vit_base_patch16_siglip_224", SMALL),
    "ViT, 4 registers, no class token": ("vit_base_patch16_reg4_gap_256", SMALL),
    "DINOv2, registers, layer scale": ("vit_small_patch14_reg4_dinov2", SMALL),
    "CLIP, norm before the blocks": ("vit_base_patch16_clip_224", SMALL),
    "DeiT III": ("deit3_small_patch16_224", SMALL),
    "DeiT, distilled": ("deit_tiny_distilled_patch16_224", SMALL),
    "FlexiViT": ("flexivit_small", SMALL),
    "InternViT, q and k normalised": ("vit_intern300m_patch14_448", SMALL | {"qk_norm": True}),
    "ViT, q and k normalised": ("vit_base_patch16_224", SMALL | {"qk_norm": True, "init_values": 0.1}),
    "ViT, RMS norms, SwiGLU (AIMv2)": ("aimv2_large_patch14_224", SMALL | {"mlp_ratio": 2.75}),
    "ViT, post-norm": ("vit_base_patch16_rpn_224", SMALL),
    "ViT, parallel blocks": ("vit_base_patch16_xp_224", SMALL),
    "ViT, two halves side by side": ("vit_small_patch16_18x2_224", SMALL),
    "ViT, differential attention": ("vit_dlittle_patch16_reg1_gap_256", SMALL | {"mlp_ratio": 5.5}),
    "ViT on a ResNet": ("vit_tiny_r_s16_p8_224", WIDE | {"img_size": 64}),
    "ViT, relative positions": ("vit_relpos_base_patch16_224", SMALL),
    "EVA": ("eva_giant_patch14_224", SMALL | {"mlp_ratio": 4.25}),
    "EVA-02, rotary": ("eva02_tiny_patch14_224", SMALL | {"mlp_ratio": 2.75}),
    "EVA-02, q, k and v apart": ("eva02_base_patch14_224", SMALL | {"mlp_ratio": 2.75}),
    "EVA-02 CLIP": ("eva02_base_patch16_clip_224", SMALL | {"mlp_ratio": 2.75}),
    "DINOv3": ("vit_small_patch16_dinov3", SMALL),
    "Perception Encoder": ("vit_pe_core_base_patch16_224", SMALL),
    "RoPE-ViT, mixed": ("vit_small_patch16_rope_mixed_224", SMALL),
    "BEiT": ("beit_base_patch16_224", SMALL),
    "BEiT v2": ("beitv2_base_patch16_224", SMALL),
    "Swin": ("swin_tiny_patch4_window7_224", SWIN),
    "Swin V2": ("swinv2_tiny_window8_256", SWIN),
    "Swin V2 CR": ("swinv2_cr_tiny_224", STAGES | {"depths": (1, 1, 1, 1), "window_size": 2}),
    "Hiera": ("hiera_tiny_224", {"img_size": 32, "embed_dim": 16, "num_heads": 1, "stages": (1, 2, 1, 1)}),
    "SAM": ("samvit_base_patch16_224", SMALL),
    "NaFlex": ("naflexvit_base_patch16_gap", WIDE),
    "ViTamin": ("vitamin_small_224", {"img_size": 64, "depth": 2}),
    "CaiT": ("cait_xxs24_224", SMALL),
}  # fmt: skip


def build(label: str, *, seed: int = 0, device: str = "cpu", **more: Any) -> nn.Module:
    """The tiny model of this label, with values off their starts, in evaluation mode."""
    name, arguments = TINY[label]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        with torch.device(device):
            net: nn.Module = timm.create_model(name, num_classes=CLASSES, **(arguments | more))
        if device != "meta":
            off_start(net)
    return net.eval()


@torch.no_grad()
def off_start(net: nn.Module, scale: float = 0.05) -> None:
    """Moves every parameter a little: a head of zeros or a norm of ones would hide what is wrong behind it."""
    for p in net.parameters():
        p.add_(scale * torch.randn_like(p))


def tiny_of(name: str, *, seed: int = 0) -> nn.Module:
    """A tiny model of any of timm's names, with values off their starts."""
    if "hiera" in name:
        arguments = {"img_size": 32, "embed_dim": 16, "num_heads": 1, "stages": (1, 2, 1, 1)}
    elif name.startswith("swin"):
        arguments = SWIN if "_cr_" not in name else STAGES | {"depths": (1, 1, 1, 1), "window_size": 2}
    elif name.startswith(("vitamin", "vit_base_mci")):
        arguments = {"img_size": 64, "depth": 1}  # its stem fixes the width
    elif name.startswith(HYBRIDS):
        arguments = WIDE | {"img_size": 64}
    else:
        arguments = SMALL | ({"num_kv_heads": (2, 1)} if "sapiens2" in name else {})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net: nn.Module = timm.create_model(name, num_classes=CLASSES, **arguments)
        off_start(net)
    return net.eval()


def images_for(label: str, count: int = 3, size: int | None = None) -> torch.Tensor:
    """Images of the size of a labelled model, or of `tiny_of` a name, the same every time."""
    if size is None:
        size = TINY[label][1].get("img_size", 32) if label in TINY else 64 if label.startswith(HYBRIDS) else 32
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(3))


# timm's modules of ViT-like and Swin-like models
MODULES = (
    "vision_transformer", "deit", "eva", "beit", "vision_transformer_hybrid", "vision_transformer_relpos", "swin_transformer",
    "swin_transformer_v2", "hiera", "vision_transformer_sam", "swin_transformer_v2_cr", "hieradet_sam2", "naflexvit", "vitamin",
    "cait", "deepseek_vit", "gemma4_vit", "qwen3_vit",
)  # fmt: skip


def structure(net: Any) -> str:
    """What of a model its adaptation depends on, as one line: models of one structure differ in sizes alone."""
    spec = model_spec(net)
    kinds = set()
    for path in spec.blocks:
        block = net.get_submodule(path)
        parts = [getattr(block, name, None) for name in ("attn", "mlp", "norm1")]
        marks = ["apart" if parts[0] is not None and is_apart(parts[0]) else "",
                 "grouped" if getattr(parts[0], "num_kv_groups", 1) > 1 else "",
                 "scaled" if hasattr(getattr(block, "ls1", None), "gamma") or getattr(block, "gamma_1", None) is not None else ""]
        kinds.add(" ".join([type(block).__name__, *(type(p).__name__ for p in parts if p is not None), *filter(None, marks)]))
    stem = [site.role for site in spec.sites if site.role in ("embed", "embed_norm")]
    facts = [type(net).__name__, "+".join(sorted(kinds)), f"pool {getattr(net, 'global_pool', 'avg') or 'none'}",
             f"norms {', '.join(final_norms(net)) or 'none'}", "class token" if spec.class_token else "",
             "registers" if spec.prefix_tokens > spec.class_token else "",
             "rotary" if getattr(net, "rope", None) is not None else "", "fixed tokens" if spec.fixed_tokens else "",
             "stem " + ", ".join(stem)]  # fmt: skip
    return "; ".join(fact for fact in facts if fact)


@cache
def one_of_each_class() -> dict[str, dict[str, Any]]:
    """One method of each class, with its settings."""
    found: dict[str, dict[str, Any]] = {}
    seen = set[str]()
    for name in options("method"):
        settings = settings_of([f"method={name}", *FIT.get(name.partition("_")[0], ())]).as_config()
        target = str(settings["method"].get("_target_"))
        if name != "none" and target not in seen:
            seen.add(target)
            found[name] = {node: settings[node] for node in ("method", "also", "extra")}
    return found
