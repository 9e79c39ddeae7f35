"""Blocks that let a method walk along: state carried from block to block, tokens added, dropped or read on the way."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from karst_bench.nn.block_hook import HookState


class BlockHooks(nn.Module):
    """The walkers of one model and their carries during a forward pass.

    frozen: the blocks run without a graph, and walkers only read h on their way (until `finish`).
    recorded: while it is a list, the walkers rest and the blocks put down what they would read.
    """

    def __init__(self) -> None:
        super().__init__()
        self.hooks: Any = nn.ModuleList()
        self.states: list[HookState] = []
        self.frozen = False
        self.recorded: list[Tensor] | None = None

    def enter(self, i: int, stage: int, first_of_stage: bool, h: Tensor) -> Tensor:
        if i == 0:
            self.states = [hook.start(h) for hook in self.hooks]
        for w, hook in enumerate(self.hooks):
            if first_of_stage:
                self.states[w] = hook.stage_start(stage, h, self.states[w])
            seen, self.states[w] = hook.before(i, h, self.states[w])
            h = self._kept(hook, h, seen)
        return h

    def mid(self, i: int, h: Tensor, cls_attention: Tensor | None) -> Tensor:
        for w, hook in enumerate(self.hooks):
            seen, self.states[w] = hook.mid(i, h, self.states[w], cls_attention)
            h = self._kept(hook, h, seen)
        return h

    def leave(self, i: int, last: bool, h: Tensor) -> Tensor:
        for w, hook in enumerate(self.hooks):
            seen, self.states[w] = hook.after(i, h, self.states[w])
            h = self._kept(hook, h, seen)
        if last:
            for hook, state in zip(self.hooks, self.states, strict=True):
                h = hook.finish(h, state)
            self.states = []
        return h

    def _kept(self, hook: nn.Module, h: Tensor, seen: Tensor) -> Tensor:
        if self.frozen and seen is not h:
            raise ValueError(f"{type(hook).__name__} changes the tokens of a frozen backbone; return h as it came, or leave "
                             "out frozen_backbone()")  # fmt: skip
        return seen


class HookedBlock(nn.Module):
    """One block with its walkers; runs under no_grad where the backbone is frozen, in halves where one needs `mid`."""

    block_hook: BlockHooks
    base: Any

    def __init__(self, base: nn.Module, block_hook: BlockHooks, i: int, stage: int, *, first_of_stage: bool, last: bool) -> None:
        super().__init__()
        self.base = base
        self.i, self.stage, self.first_of_stage, self.last = i, stage, first_of_stage, last
        object.__setattr__(self, "block_hook", block_hook)  # registered once, at the root

    def forward(self, h: Tensor) -> Tensor:
        if self.block_hook.recorded is not None:
            return self._recording(h, self.block_hook.recorded)
        h = self.block_hook.enter(self.i, self.stage, self.first_of_stage, h)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.block_hook.frozen):
            h = self._halves(h) if any(hook.uses_mid for hook in self.block_hook.hooks) else self.base(h)
        return self.block_hook.leave(self.i, self.last, h)

    def replay(self, h: Tensor, recorded: Iterator[Tensor]) -> Tensor:
        """`forward` with what was recorded in the place of the block's arithmetic; h is the last block's output."""
        h = self.block_hook.enter(self.i, self.stage, self.first_of_stage, next(recorded) if self.first_of_stage else h)
        return self.block_hook.leave(self.i, self.last, next(recorded))

    def _recording(self, h: Tensor, recorded: list[Tensor]) -> Tensor:
        if self.first_of_stage:
            recorded.append(h)
        h = self.base(h)
        recorded.append(h)
        return h

    def _halves(self, h: Tensor) -> Tensor:
        """timm's pre-norm block, x + attn(x) then x + mlp(x), with room between the two."""
        block = self.base
        h = h + block.drop_path1(block.ls1(block.attn(block.norm1(h))))
        seen = getattr(block.attn.attn_drop, "seen", None)
        h = self.block_hook.mid(self.i, h, seen)
        return h + block.drop_path2(block.ls2(block.mlp(block.norm2(h))))


class AttentionRecorder(nn.Module):
    """Stands at `attn_drop` and keeps the class token's attention row (B, heads, T)."""

    base: Any

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.seen: Tensor | None = None

    def forward(self, attention: Tensor) -> Tensor:
        attention = self.base(attention)
        self.seen = attention[:, :, 0]
        return attention


class WindowTokens(nn.Module):
    """Swin window attention over the window's tokens and p prompts prepended to it            [VPT, arXiv 2203.12119]

    softmax(q [k_p; k]^T / sqrt d + [0; bias]) [v_p; v] for the window's own queries: the prompts' outputs are dropped, as
    the next block brings its own. The relative position bias of a prompt is 0 and no window mask applies to it.
    Shapes: x (B nW, L, d), mask (nW, L, L) or None, prompts (p, d) -> (B nW, L, d). The block's norm1 applies to the prompts.
    """

    base: Any
    norm: nn.Module

    def __init__(self, base: nn.Module, norm: nn.Module, prompts: Callable[[], Tensor]) -> None:
        super().__init__()
        self.base = base
        self.prompts = prompts
        object.__setattr__(self, "norm", norm)  # the block's own norm1, registered there

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        attn, (windows, L, _) = self.base, x.shape
        prompts = self.norm(self.prompts())  # (p, d)
        p = prompts.shape[0]
        tokens = torch.cat([prompts.expand(windows, -1, -1), x], dim=1)
        q, k, v = attn.qkv(tokens).reshape(windows, p + L, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
        bias = attn._get_rel_pos_bias()  # (1, heads, L, L)
        if mask is not None:
            count = mask.shape[0]
            bias = (bias + mask.unsqueeze(1)).repeat(windows // count, 1, 1, 1)
        bias = F.pad(bias, (p, 0)).to(q.dtype)
        drop = attn.attn_drop.p if self.training else 0.0
        y = F.scaled_dot_product_attention(q[:, :, p:], k, v, attn_mask=bias, dropout_p=drop)
        y = y.transpose(1, 2).reshape(windows, L, -1)
        return attn.proj_drop(attn.proj(y))
