"""The names of timm and torch that are private, moved between versions or mean something else there: all of them, once.

tests/adapt/test_timm_compat.py says of each what it must mean.
"""

import importlib
from collections.abc import Mapping

import torch
from timm.layers import GELU, LayerNorm, Mlp
from timm.models import _registry, register_notrace_module, swin_transformer, vision_transformer
from timm.models.swin_transformer import PatchMerging, SwinTransformerBlock
from timm.models.vision_transformer import Attention, Block  # Attention moved to timm.layers in 1.0.20 and stayed here
from torch import Tensor, nn
from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from karst_bench.nn.narrow_norm import NarrowInputNorm

__all__ = [
    "COMPILER_ERRORS", "Attention", "Block", "FakeTensor", "FakeTensorMode", "Mlp", "PatchMerging", "SwinTransformerBlock",
    "is_plain_gelu", "is_plain_layer_norm", "register_notrace_module", "renamed_checkpoint", "renamed_to",
]  # fmt: skip

COMPILER_ERRORS = (TorchDynamoException, FailOnRecompileLimitHit)  # torch's own has no common base
HEAD = "head.fc.weight"  # what timm's Swin filter up to 1.0.30 takes for the mark of a file with timm's own names


def renamed_to(name: str) -> str | None:
    """The present name of a model that timm renamed; None for any other."""
    return _registry._deprecated_models.get(name)


def is_plain_layer_norm(module: nn.Module) -> bool:
    """Whether the module is torch's LayerNorm, or one of its very values, not timm's faster one of a lower precision."""
    return type(module) in (nn.LayerNorm, LayerNorm, NarrowInputNorm) and not getattr(module, "_fast_norm", False)


def is_plain_gelu(module: nn.Module) -> bool:
    """Whether the module is torch's GELU; its `approximate` is there or "none"."""
    return type(module) in (nn.GELU, GELU)


def renamed_checkpoint(state: Mapping[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
    """timm's own renaming of published checkpoints to its current names.

    Swin's originals downsample at a stage's end (stage 0 has one), timm at its start. Older versions of timm tell the two
    apart by the classifier, which a file without one lacks: they are shown one then. Raises: whatever timm raises
    where the file is of a foreign layout.
    """
    own = importlib.import_module(type(net).__module__)
    if not isinstance(net, vision_transformer.VisionTransformer | swin_transformer.SwinTransformer):
        if not hasattr(own, "checkpoint_filter_fn"):
            return dict(state)
        renamed = own.checkpoint_filter_fn(dict(state), net)
        return dict(renamed)
    if isinstance(net, vision_transformer.VisionTransformer):
        return dict(vision_transformer.checkpoint_filter_fn(dict(state), net))
    shown = dict(state)
    if "layers.0.downsample.reduction.weight" not in state and HEAD not in state:
        shown[HEAD] = torch.empty(0)
    renamed = dict(swin_transformer.checkpoint_filter_fn(shown, net))
    return {name: tensor for name, tensor in renamed.items() if tensor.numel()}
