"""Prompts in Swin's windows, and what becomes of them behind the last block [VPT, arXiv 2203.12119]."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from karst_bench.adapt.token_grid import Grid
from karst_bench.nn.reference import Reference, refuse_replica
from karst_bench.nn.transient import Transient


class WindowTokens(nn.Module):
    """Swin window attention over the window's tokens and p prompts prepended to it            [VPT, arXiv 2203.12119]

    softmax(q [k_p; k]^T / sqrt d + [0; bias]) [v_p; v] for the window's own queries: the prompts' outputs are dropped, as
    the next block brings its own. The relative position bias of a prompt is 0 and no window mask applies to it. With
    `keep` (the last block) the prompts ask too, and what they get, averaged over an image's windows, is added to them.
    Shapes: x (B nW, L, d), mask (nW, L, L) or None, prompts (p, d), or (B, p, d) with per_image -> (B nW, L, d). The block's
    norm1 applies to the prompts. grid: () -> rows and columns of patches in the block.
    """

    base: Any

    def __init__(
        self, base: nn.Module, block: nn.Module, prompts: Callable[..., Tensor], *, grid: Grid,
        per_image: bool = False, keep: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.base = base
        self.prompts = prompts
        self.per_image, self.keep = per_image, keep
        self.block: Reference[Any] = Reference(block)  # registered where it stands; norm1 as it was when prompts came
        self.grid = grid
        self.norm = Reference(self.block.module.norm1)
        self.left = Transient()

    @property
    def windows(self) -> int:
        """How many windows an image has in the forward pass under way."""
        (height, width), (rows, columns) = self.block.module.window_size, self.grid()
        return int(-(-rows // height) * -(-columns // width))

    def set_window_size(self, *args: Any, **kwargs: Any) -> None:
        """timm's own, of the attention."""
        self.base.set_window_size(*args, **kwargs)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        refuse_replica(self)
        attn, (count, L, _) = self.base, x.shape
        tokens = (self.prompts(count // self.windows) if self.per_image else torch.stack([self.prompts()])).to(x.dtype)
        p = tokens.shape[1]
        inside = self.norm.module(tokens).repeat_interleave(count // tokens.shape[0], 0)  # an image's windows are neighbours
        q, k, v = attn.qkv(torch.cat([inside, x], dim=1)).reshape(count, p + L, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
        bias = position_bias(attn)
        if mask is not None:
            bias = (bias + mask.unsqueeze(1)).repeat(count // mask.shape[0], 1, 1, 1)
        first = 0 if self.keep else p
        bias = F.pad(bias, (p, 0, p - first, 0)).to(q.dtype)
        drop = attn.attn_drop.p if self.training else 0.0
        y: Tensor = F.scaled_dot_product_attention(q[:, :, first:], k, v, attn_mask=bias, dropout_p=drop)
        y = attn.proj_drop(attn.proj(y.transpose(1, 2).reshape(count, p - first + L, -1)))
        if self.keep:
            self.left["prompts"] = tokens + y[:, :p].unflatten(0, (-1, self.windows)).mean(1)
            y = y[:, p:]
        return y


class PooledPrompts(nn.Module):
    """The final norm over the last block's patches and prompts, and their mean as one token: the head's own pooling keeps it.

    The prompts pass the block's MLP half as it stands; an adapter of the attention half does not see them.
    Shapes: h (B, H, W, d) -> (B, 1, 1, d).
    """

    base: Any

    def __init__(self, base: nn.Module, tokens: WindowTokens) -> None:
        super().__init__()
        self.base = base
        self.tokens = Reference(tokens)

    def forward(self, h: Tensor) -> Tensor:
        tokens = self.tokens.module
        block, prompts = tokens.block.module, tokens.left.pop("prompts")  # kept, it would outlive its graph
        prompts = prompts + block.drop_path2(block.mlp(block.norm2(prompts)))
        every: Tensor = self.base(torch.cat([prompts, h.flatten(1, 2)], dim=1))  # (B, p + H W, d)
        return every.mean(1)[:, None, None]


def position_bias(attn: Any) -> Tensor:
    """The relative position bias of timm's window attention, (1, heads, L, L), from its table and index."""
    index: Tensor = attn.relative_position_index  # (L, L)
    table: Tensor = attn.relative_position_bias_table  # (entries, heads)
    return table[index].permute(2, 0, 1).unsqueeze(0)
