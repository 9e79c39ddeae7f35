"""The last ViT block for the class token alone: nothing else of its output reaches a class-token head."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from karst_bench.adapt.layers import AdaptedLayer
from karst_bench.adapt.readout import Readout
from karst_bench.adapt.residual import Residual
from karst_bench.adapt.speed.frozen_features import DROPOUTS
from karst_bench.adapt.timm_compat import Attention, Block
from karst_bench.adapt.timm_sites import classifiers, family_of
from karst_bench.nn.reference import Reference


class ClassTokenBlock(nn.Module):
    """timm's pre-norm block, keys and values from every token, all else for token 0. Shapes: x (B, T, d) -> (B, 1, d).

    It takes the children of the block whose place it takes, under the same names, so that the state_dict keys stay
    timm's; `restored` gives them back, as merging and unmerging left them.
    """

    norm1: Any
    attn: Any
    ls1: Any
    drop_path1: Any
    norm2: Any
    mlp: Any
    ls2: Any
    drop_path2: Any

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.whole = Reference(block)
        self.training = block.training
        for name, child in block.named_children():
            self.add_module(name, child)

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = x[:, :1] + self.drop_path1(self.ls1(self._attended(self.norm1(x))))
        y: Tensor = self.drop_path2(self.ls2(self.mlp(self.norm2(h))))
        return h + y

    def restored(self) -> nn.Module:
        """The block that computes every token, with the children that stand here now."""
        block = self.whole.module
        for name, child in self.named_children():
            setattr(block, name, child)
        block.training = self.training
        return block

    def _attended(self, x: Tensor) -> Tensor:
        attn, (B, T, _) = self.attn, x.shape
        q, k, v = attn.qkv(x).reshape(B, T, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        q, k = attn.q_norm(q[:, :, :1]), attn.k_norm(k)
        if attn.fused_attn:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = (q * attn.scale @ k.transpose(-2, -1)).softmax(-1) @ v
        y = y.transpose(1, 2).reshape(B, 1, -1)
        attended: Tensor = attn.proj_drop(attn.proj(getattr(attn, "norm", nn.Identity())(y)))
        return attended


def class_token_only(net: Any) -> str | None:
    """Lets the last block of a ViT compute the class token alone, where no part needs the other tokens; logits stay.

    Call it after the methods are attached; it holds for merged weights too. Returns None if it was done, else the
    reason why not. `forward_features` then hands on a single token; `all_tokens` undoes it.
    """
    reason = needs_all_tokens(net)
    if reason is None:
        net.blocks[-1] = ClassTokenBlock(net.blocks[-1])
    return reason


def all_tokens(net: Any) -> None:
    """Undoes `class_token_only`; does nothing where it was not done."""
    blocks = getattr(net, "blocks", None)
    if blocks is not None and isinstance(blocks[-1], ClassTokenBlock):
        blocks[-1] = blocks[-1].restored()


def needs_all_tokens(net: Any) -> str | None:
    """Why the last block must compute every token, or None."""
    if family_of(net) != "vit":
        return "the head pools all tokens"
    block = net.blocks[-1]
    if len(classifiers(net)) > 1:
        return "two heads read a token each"
    if isinstance(block, ClassTokenBlock):
        return "the last block computes the class token alone already"
    if type(block) is not Block or type(block.attn) is not Attention:
        return f"the last block is a {type(block).__name__} with {type(getattr(block, 'attn', None)).__name__}"
    if net.global_pool != "token" or getattr(net, "attn_pool", None) is not None or isinstance(net.norm, Readout):
        return "the head reads more than the class token"
    if getattr(block.attn, "gate", None) is not None:
        return "its attention is gated"
    if any(isinstance(module, Residual) for module in block.modules()):
        return "an adapter of the last block may mix tokens"
    later = [module for name, module in block.named_modules() if not name.startswith("attn.qkv")]
    if any(isinstance(module, AdaptedLayer) and module.unmergeable() for module in later):
        return "a branch of the last block may mix tokens"
    if any(isinstance(module, DROPOUTS) and module.p > 0 for module in later):
        return "dropout would draw other numbers for fewer tokens"
    return None
