"""Blocks with hooks: state carried from block to block, tokens added, dropped or read on the way."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from karst_bench.errors import UserError
from karst_bench.nn.block_hook import HookState
from karst_bench.nn.precision import own_precision, same_precision
from karst_bench.nn.reference import Reference, refuse_replica
from karst_bench.nn.transient import Transient

States = list[HookState]


class BlockHooks(nn.Module):
    """The hooks of one model and their states during a forward pass.

    frozen: the blocks run without a graph, and hooks only read h on its way (until `finish`).
    recorded: while it is a list, the hooks rest and the blocks put down what they would read.
    backbone: the model, which says whether its blocks are computed again in backward (timm's set_grad_checkpointing); the
    states that entered a block are then kept beside the block's input, for as long as that lives.
    """

    def __init__(self) -> None:
        super().__init__()
        self.hooks: Any = nn.ModuleList()
        self.frozen = False
        self.recorded: list[Tensor] | None = None
        self.backbone: Reference[Any] | None = None
        self._now = Transient()  # states: those that left the last block
        self._entered = Entered()

    def enter(self, i: int, stage: int, first_of_stage: bool, h: Tensor) -> tuple[Tensor, States]:
        """(block i's input as the hooks hand it on, their states); the first block starts them."""
        again = not torch.compiler.is_compiling() and h in self._entered.states  # torch 2.11 cannot trace a weak dictionary
        states: States = self._entered.states[h] if again else self._now.pop("states", None)
        if i == 0:
            states = [hook.start(self._own(hook, h)) for hook in self.hooks]
        if states is None:
            raise UserError(
                f"block {i} of this {self._model()} was called on its own, and the attached method passes a state on from block 0; "
                "call the whole model, and recompute blocks only with set_grad_checkpointing"
            )
        if not again and self._checkpointed():
            self._entered.states[h] = states
        states = list(states)
        for n, hook in enumerate(self.hooks):
            own = self._own(hook, h)
            if first_of_stage:
                states[n] = hook.stage_start(stage, own, states[n])
            seen, states[n] = hook.before(i, own, states[n])
            h = self._checked(hook, h, own, seen)
        return h, states

    def mid(self, i: int, h: Tensor, states: States, cls_attention: Tensor | None) -> Tensor:
        """What block i's MLP half is given; cls_attention (B, heads, T) where it was recorded."""
        for n, hook in enumerate(self.hooks):
            own = self._own(hook, h)
            row = cls_attention if cls_attention is None or own is h else cls_attention.to(own.dtype)
            seen, states[n] = hook.mid(i, own, states[n], row)
            h = self._checked(hook, h, own, seen)
        return h

    def leave(self, i: int, last: bool, h: Tensor, states: States) -> Tensor:
        """Block i's output as the hooks hand it on; the last block ends their states."""
        for n, hook in enumerate(self.hooks):
            own = self._own(hook, h)
            seen, states[n] = hook.after(i, own, states[n])
            h = self._checked(hook, h, own, seen)
        if last:
            for hook, state in zip(self.hooks, states, strict=True):
                h = hook.finish(self._own(hook, h), state).to(h.dtype)
        else:
            self._now["states"] = states
        return h

    def _own(self, hook: nn.Module, h: Tensor) -> Tensor:
        """h in the precision of what the hook trains."""
        return h if same_precision(hook, h) else h.to(own_precision(hook, h.dtype))

    def _checked(self, hook: nn.Module, h: Tensor, own: Tensor, seen: Tensor) -> Tensor:
        if seen is own:
            return h
        if self.frozen:
            raise ValueError(f"{type(hook).__name__} changes the tokens of a frozen backbone; return h as it came, or leave "
                             "out frozen_backbone()")  # fmt: skip
        return seen.to(h.dtype)

    def _checkpointed(self) -> bool:
        if self.backbone is None or not torch.is_grad_enabled():
            return False
        net = self.backbone.module
        return any(getattr(part, "grad_checkpointing", False) for part in (net, *getattr(net, "layers", ())))

    def _model(self) -> str:
        return "model" if self.backbone is None else type(self.backbone.module).__name__


class Entered:
    """The states that entered each block, by the tensor that entered with them; empty in every copy and file."""

    def __init__(self) -> None:
        self.states: Any = WeakTensorKeyDictionary()

    def __deepcopy__(self, memo: dict[int, Any]) -> "Entered":
        return Entered()

    def __reduce__(self) -> tuple[Any, ...]:
        return Entered, ()


class HookedBlock(nn.Module):
    """One block and the model's hooks; runs under no_grad where the backbone is frozen, in halves where one needs `mid`.

    What else the model gives its blocks (rotary positions, a shared bias, a mask) is handed on.
    """

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

    @property
    def attn(self) -> nn.Module:
        """The block's attention, which timm asks for when a model's input size changes."""
        attn: nn.Module = self.base.attn
        return attn

    def set_input_size(self, *args: Any, **kwargs: Any) -> None:
        """timm's own, of the block."""
        self.base.set_input_size(*args, **kwargs)

    def forward(self, h: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        refuse_replica(self)
        hooks = self.hooks
        if hooks.recorded is not None:
            return self._recording(h, hooks.recorded, *args, **kwargs)
        h, states = hooks.enter(self.i, self.stage, self.first_of_stage, h)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not hooks.frozen):
            in_halves = any(hook.uses_mid for hook in hooks.hooks)
            h = self._halves(h, states, *args, **kwargs) if in_halves else self.base(h, *args, **kwargs)
        return hooks.leave(self.i, self.last, h, states)

    def replay(self, h: Tensor, recorded: Iterator[Tensor]) -> Tensor:
        """`forward` with what was recorded in the place of the block's arithmetic; h is the last block's output."""
        entered = next(recorded) if self.first_of_stage else h
        h, states = self.hooks.enter(self.i, self.stage, self.first_of_stage, entered)
        return self.hooks.leave(self.i, self.last, next(recorded), states)

    def _recording(self, h: Tensor, recorded: list[Tensor], *args: Any, **kwargs: Any) -> Tensor:
        if self.first_of_stage:
            recorded.append(h)
        h = self.base(h, *args, **kwargs)
        recorded.append(h)
        return h

    def _halves(self, h: Tensor, states: States, *args: Any, **kwargs: Any) -> Tensor:
        """timm's pre-norm block, x + attn(x) then x + mlp(x), with room between the two."""
        block = self.base
        h = h + block.drop_path1(block.ls1(block.attn(block.norm1(h), *args, **kwargs)))
        h = self.hooks.mid(self.i, h, states, _taken(block.attn.attn_drop))
        y: Tensor = block.drop_path2(block.ls2(block.mlp(block.norm2(h))))
        return h + y


class AttentionRecorder(nn.Module):
    """Stands at `attn_drop` and keeps the class token's attention row (B, heads, T)."""

    base: Any

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.seen = Transient()

    def forward(self, attention: Tensor) -> Tensor:
        attention = self.base(attention)
        self.seen["row"] = attention[:, :, 0]
        return attention


def _taken(recorder: nn.Module) -> Tensor | None:
    """What was recorded, once: a kept activation would outlive its graph."""
    row: Tensor | None = recorder.seen.pop("row", None) if isinstance(recorder, AttentionRecorder) else None
    return row
