"""Modules whose leading slices are modules of a smaller size: NOAH's supernet, and with one size its subnet."""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from karst_bench.nn.block_hook import BlockHook, HookState
from karst_bench.nn.bottleneck import QuickGELU
from karst_bench.nn.prompts import Prompts

INITS = ("code", "paper")


class SlicedLoRA(nn.Module):
    """x -> W_b[:, :l] W_a[:l] drop(x), l = active; no scale. Shapes: W_a (size, d_in), W_b (d_out, size).

    Init: `paper` W_a Kaiming-uniform(sqrt 5), W_b = 0; `code` both trunc-normal 0.02.
    """

    def __init__(self, d_out: int, d_in: int, *, size: int, dropout: float, init: str) -> None:
        super().__init__()
        self.W_a = nn.Parameter(torch.empty(size, d_in))
        self.W_b = nn.Parameter(torch.zeros(d_out, size))
        if init == "code":
            nn.init.trunc_normal_(self.W_a, std=0.02)
            nn.init.trunc_normal_(self.W_b, std=0.02)
        else:
            nn.init.kaiming_uniform_(self.W_a, a=math.sqrt(5))
        self.drop = nn.Dropout(dropout)
        self.active = size

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(self.drop(x), self.W_a[: self.active]), self.W_b[:, : self.active])

    def delta(self, W0: Tensor) -> Tensor:
        """dW (d_out, d_in), in evaluation."""
        return self.W_b[:, : self.active] @ self.W_a[: self.active]


class SlicedBottleneck(nn.Module):
    """u -> W_2[:, :a] drop(QuickGELU(W_1[:a] u + b_1[:a])) + b_2, a = active; 0 where a = 0.

    Shapes: W_1 (size, d), b_1 (size,), W_2 (d, size), b_2 (d,). Init: `paper` Xavier-uniform, `code` trunc-normal 0.02;
    biases 0.
    """

    def __init__(self, d: int, *, size: int, dropout: float, init: str) -> None:
        super().__init__()
        self.W_1 = nn.Parameter(torch.empty(size, d))
        self.b_1 = nn.Parameter(torch.zeros(size))
        self.W_2 = nn.Parameter(torch.empty(d, size))
        self.b_2 = nn.Parameter(torch.zeros(d))
        for weight in (self.W_1, self.W_2):
            if init == "code":
                nn.init.trunc_normal_(weight, std=0.02)
            else:
                nn.init.xavier_uniform_(weight)
        self.act = QuickGELU()
        self.drop = nn.Dropout(dropout)
        self.active = size

    def forward(self, u: Tensor) -> Tensor:
        a = self.active
        if a == 0:
            return torch.zeros_like(u)
        hidden = self.drop(self.act(F.linear(u, self.W_1[:a], self.b_1[:a])))
        return F.linear(hidden, self.W_2[:, :a], self.b_2)


class TailPrompts(BlockHook):
    """[cls; patches; P_i[:p_i]] within block i, in the place of the prompts that left the last one; p_i = 0 keeps those.

    Dropout draws a mask for each image. The state is the prompts that left, None before the first. Shapes: h (B, T, d), P_i
    (size, d).
    """

    changes_tokens = "end"

    def __init__(self, prompts: Mapping[int, Prompts], depth: int) -> None:
        super().__init__()
        self.prompts = nn.ModuleDict({str(block): tokens for block, tokens in prompts.items()})
        self.active = [len(prompts[block].tokens) if block in prompts else 0 for block in range(depth)]

    def before(self, i: int, h: Tensor, state: HookState) -> tuple[Tensor, HookState]:
        count = self.active[i]
        tokens = self.prompts[str(i)](h.shape[0])[:, :count].to(h.dtype) if count else state
        return (h if tokens is None else torch.cat([h, tokens], dim=1)), tokens

    def after(self, i: int, h: Tensor, state: HookState) -> tuple[Tensor, HookState]:
        if state is None:
            return h, None
        own = h.shape[1] - state.shape[1]
        return h[:, :own], h[:, own:]
