"""Blocks with hooks: state carried from block to block, tokens added, dropped or read on the way."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from karst_bench.nn.block_hook import HookState
from karst_bench.nn.reference import Reference


class BlockHooks(nn.Module):
    """The hooks of one model and their states during a forward pass.

    frozen: the blocks run without a graph, and hooks only read h on its way (until `finish`).
    recorded: while it is a list, the hooks rest and the blocks put down what they would read.
    """

    def __init__(self) -> None:
        super().__init__()
        self.hooks: Any = nn.ModuleList()
        self.states: list[HookState] = []
        self.frozen = False
        self.recorded: list[Tensor] | None = None

    def enter(self, i: int, stage: int, first_of_stage: bool, h: Tensor) -> Tensor:
        """Block i's input as the hooks hand it on; the first block starts their states."""
        if i == 0:
            self.states = [hook.start(h) for hook in self.hooks]
        for n, hook in enumerate(self.hooks):
            if first_of_stage:
                self.states[n] = hook.stage_start(stage, h, self.states[n])
            seen, self.states[n] = hook.before(i, h, self.states[n])
            h = self._checked(hook, h, seen)
        return h

    def mid(self, i: int, h: Tensor, cls_attention: Tensor | None) -> Tensor:
        """What block i's MLP half is given; cls_attention (B, heads, T) where it was recorded."""
        for n, hook in enumerate(self.hooks):
            seen, self.states[n] = hook.mid(i, h, self.states[n], cls_attention)
            h = self._checked(hook, h, seen)
        return h

    def leave(self, i: int, last: bool, h: Tensor) -> Tensor:
        """Block i's output as the hooks hand it on; the last block ends their states."""
        for n, hook in enumerate(self.hooks):
            seen, self.states[n] = hook.after(i, h, self.states[n])
            h = self._checked(hook, h, seen)
        if last:
            for hook, state in zip(self.hooks, self.states, strict=True):
                h = hook.finish(h, state)
            self.states = []
        return h

    def _checked(self, hook: nn.Module, h: Tensor, seen: Tensor) -> Tensor:
        if self.frozen and seen is not h:
            raise ValueError(f"{type(hook).__name__} changes the tokens of a frozen backbone; return h as it came, or leave "
                             "out frozen_backbone()")  # fmt: skip
        return seen


class HookedBlock(nn.Module):
    """One block and the model's hooks; runs under no_grad where the backbone is frozen, in halves where one needs `mid`."""

    base: Any

    def __init__(self, base: nn.Module, hooks: BlockHooks, i: int, stage: int, *, first_of_stage: bool, last: bool) -> None:
        super().__init__()
        self.base = base
        self.i, self.stage, self.first_of_stage, self.last = i, stage, first_of_stage, last
        self._hooks = Reference(hooks)

    @property
    def hooks(self) -> BlockHooks:
        """The hooks of the model, registered once, at its root."""
        return self._hooks.module

    def forward(self, h: Tensor) -> Tensor:
        hooks = self.hooks
        if hooks.recorded is not None:
            return self._recording(h, hooks.recorded)
        h = hooks.enter(self.i, self.stage, self.first_of_stage, h)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not hooks.frozen):
            h = self._halves(h) if any(hook.uses_mid for hook in hooks.hooks) else self.base(h)
        return hooks.leave(self.i, self.last, h)

    def replay(self, h: Tensor, recorded: Iterator[Tensor]) -> Tensor:
        """`forward` with what was recorded in the place of the block's arithmetic; h is the last block's output."""
        h = self.hooks.enter(self.i, self.stage, self.first_of_stage, next(recorded) if self.first_of_stage else h)
        return self.hooks.leave(self.i, self.last, next(recorded))

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
        h = self.hooks.mid(self.i, h, _taken(block.attn.attn_drop))
        y: Tensor = block.drop_path2(block.ls2(block.mlp(block.norm2(h))))
        return h + y


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


def _taken(recorder: nn.Module) -> Tensor | None:
    """What was recorded, once: a kept activation would outlive its graph and block copying the model."""
    if not isinstance(recorder, AttentionRecorder):
        return None
    seen, recorder.seen = recorder.seen, None
    return seen
