"""Learned tokens and where they stand in a sequence [VPT, arXiv 2203.12119]."""

import math

import torch
from torch import Tensor, nn


class Prompts(nn.Module):
    """p learned tokens of width d, drawn U(-v, v) with v = sqrt(6 / (3 patch^2 + embed_dim)); dropout acts on the tokens.

    Shapes: (B) -> (B, p, d), a mask for each image; () -> (p, d), one mask for all. Raises: ValueError for p < 1.
    """

    def __init__(self, p: int, d: int, *, patch: int, embed_dim: int, dropout: float) -> None:
        super().__init__()
        if p < 1:
            raise ValueError(f"p={p}: at least one prompt is needed")
        bound = math.sqrt(6 / (3 * patch**2 + embed_dim))
        self.tokens = nn.Parameter(torch.empty(p, d).uniform_(-bound, bound))
        self.drop = nn.Dropout(dropout)

    def forward(self, images: int | None = None) -> Tensor:
        copies: Tensor = self.tokens if images is None else self.tokens.repeat(images, 1, 1)
        tokens: Tensor = self.drop(copies)
        return tokens


def insert_after(h: Tensor, tokens: Tensor, prefix: int) -> Tensor:
    """[prefix tokens; prompts; patches] of h (B, T, d) and prompts (B, p, d) -> (B, T + p, d)."""
    return torch.cat([h[:, :prefix], tokens.to(h.dtype), h[:, prefix:]], dim=1)


def remove_after(h: Tensor, count: int, prefix: int) -> Tensor:
    """h (B, T + p, d) without the p = count tokens that follow the prefix -> (B, T, d)."""
    return torch.cat([h[:, :prefix], h[:, prefix + count :]], dim=1)
