"""The verbs between blocks: hooks that carry a state or add tokens, prompts in windows, a backbone without a graph."""

from collections.abc import Collection, Sequence
from functools import partial
from typing import Any

from torch import nn

from karst_bench.adapt.block_hooks import AttentionRecorder, BlockHooks, HookedBlock
from karst_bench.adapt.intermediates import INTERMEDIATES, Features, Intermediates
from karst_bench.adapt.module_tree import M, ModuleTree
from karst_bench.adapt.readout import Readout
from karst_bench.adapt.timm_compat import Attention
from karst_bench.adapt.timm_sites import classifiers
from karst_bench.adapt.token_grid import BlockGrid, Grid, PatchGrid
from karst_bench.adapt.trained import TrainedParameters
from karst_bench.adapt.window_tokens import PooledPrompts, WindowTokens
from karst_bench.errors import MisfitError, UserError
from karst_bench.nn.block_hook import BlockHook
from karst_bench.nn.model_spec import STANDARD
from karst_bench.nn.reference import Reference

POOLS = ("with this method the final norm pools the tokens for the head and gives no feature map; call the whole model, or "
         "forward_intermediates with norm=False")  # fmt: skip


class TokenVerbs(ModuleTree):
    """Part of TimmAdaptedModel. unmergeable: what no plain layer computes."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self._head_paths = list(classifiers(net))
        self._parameters = TrainedParameters(net, self._head_paths)
        self._block_hooks: BlockHooks | None = None
        self.unmergeable: list[str] = []

    def block_hook(self, hook: BlockHook, *, needs_attention: Collection[int] = ()) -> None:
        """Calls the hook before, within and after every block, with a state of its own; see BlockHook.

        needs_attention: the blocks in which `mid` gets the class token's attention row. Raises: UserError for a hook that adds
        tokens, or works within blocks, where this model's cannot.
        """
        self._refuse_hook(hook)
        if self._block_hooks is None:
            self._block_hooks = self._at_root("block_hooks", BlockHooks())
            self._block_hooks.backbone = Reference(self.net)
            self._wrap_blocks(self._block_hooks)
        self._block_hooks.hooks.append(self._train(hook))
        self.unmergeable.append(type(hook).__name__)
        for i in range(self.spec.depth):
            attn: Any = getattr(self._block_module(i), "attn", None)
            if hook.added_prefix and hasattr(attn, "num_prefix_tokens"):  # rotary positions leave prefix tokens alone
                self._journal.set(attn, "num_prefix_tokens", attn.num_prefix_tokens + hook.added_prefix)
        if hook.changes_tokens == "dropped":
            self._guard(f"{type(hook).__name__} drops tokens between blocks, so that no feature map is left; call the whole model",
                        only_norm=False)  # fmt: skip
        for i in needs_attention:
            self._journal.set(self._block_module(i).attn, "fused_attn", False)  # the fused form shows no probabilities
            self._put(f"{self._block_path(i)}.attn.attn_drop", AttentionRecorder)

    def window_tokens(self, block: int, prompts: nn.Module, *, per_image: bool = False, pooled: bool = False) -> None:
        """Swin: prompts() -> (p, d), or with per_image prompts(B) -> (B, p, d), join every window of the block.

        pooled: they leave the block, the last one, as tokens, and the head pools them with the patches. Raises: UserError
        where another method pools, or where the attention takes no further token.
        """
        if self.spec.fixed_tokens:
            raise self._misfit("adds tokens", self.spec.fixed_tokens)
        module, trained, grid = self._block_module(block), self._train(prompts), self.grid(block)
        wrap = partial(WindowTokens, block=module, prompts=trained, grid=grid, per_image=per_image, keep=pooled)
        tokens = self._put(f"{self._block_path(block)}.attn", wrap)
        if pooled and isinstance(self._home_of("norm"), Readout):
            raise UserError(f"{type(prompts).__name__} and another method both say what the head pools; attach one of them")
        if pooled:
            self._put("norm", partial(PooledPrompts, tokens=tokens))
            self._guard(POOLS, only_norm=True)
        self.unmergeable.append(f"{type(prompts).__name__} in block {block}")

    def grid(self, block: int) -> Grid:
        """() -> (rows, columns) of the patches that this block is given, in the forward pass under way."""
        if self.spec.model == "Hiera":
            raise self._misfit("reads the patches as a grid", self.spec.fixed_tokens)
        if self.spec.family == "vit":
            return PatchGrid.of(self.net, self._journal)
        return BlockGrid.of(self._block_module(block), self._journal)

    def frozen_backbone(self) -> None:
        """Runs every block without a graph; only what block hooks compute from it trains, so that activations can be stored.

        Raises: UserError where no hook was given before.
        """
        if self._block_hooks is None:
            raise UserError("frozen_backbone() without a block hook leaves nothing that could train but the head")
        self._block_hooks.frozen = True

    @property
    def block_hooks(self) -> BlockHooks | None:
        """The block hooks of this model, if a method gave one."""
        return self._block_hooks

    def _train(self, module: M) -> M:
        self._parameters.add(module)
        return module

    def _wrap_blocks(self, hooks: BlockHooks) -> None:
        stages: Sequence[int] = self.spec.stages
        for i, stage in enumerate(stages):
            first = i == 0 or stages[i - 1] != stage
            last = i == len(stages) - 1
            self._put(
                self._block_path(i), partial(HookedBlock, hooks=hooks, i=i, stage=stage, first_of_stage=first, last=last)
            )

    def _refuse_hook(self, hook: BlockHook) -> None:
        does = "adds or drops tokens" if hook.changes_tokens else "follows the tokens from block to block"
        if self.spec.fixed_tokens and (hook.changes_tokens or self.spec.model == "Hiera"):
            raise self._misfit(does, self.spec.fixed_tokens)
        if getattr(self.net, "rope", None) is not None and hook.changes_tokens not in ("", "prefix"):
            raise self._misfit(does, "the rotary position embedding of this model is that of all patches, in their order")
        for i in range(self.spec.depth if hook.uses_mid else 0):
            block = self._block_module(i)
            if not self._layout(i).splits or type(block.attn) is not Attention:
                kind = type(block).__name__ if not self._layout(i).splits else type(block.attn).__name__
                raise self._misfit("works between attention and MLP of timm's standard Block", f"this model is built of {kind}")

    def _guard(self, why: str, *, only_norm: bool) -> None:
        for call in (name for name in INTERMEDIATES if hasattr(self.net, name)):
            self._journal.set(self.net, call, Intermediates(call, Reference(self.net), why, only_norm))
        features = Features(Reference(self.net), why)
        self._journal.set(self.net, "forward_features", features)
        self._journal.hook(self.net.register_forward_pre_hook(features.enter))
        self._journal.hook(self.net.register_forward_hook(features.leave, always_call=True))

    @staticmethod
    def _misfit(does: str, but: str) -> MisfitError:
        return MisfitError(f"the method {does}, but {but}; use a standard ViT, {STANDARD}, or another method")
