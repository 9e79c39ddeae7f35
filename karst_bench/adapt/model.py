"""The verbs by which a method says what goes where; everything given to a verb trains, all else is frozen."""

import fnmatch
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from karst_bench.adapt.block_hooks import AttentionRecorder, BlockHooks, HookedBlock
from karst_bench.adapt.layers import AdaptedLayer, InputRecorder, Merge, Readout, Residual
from karst_bench.adapt.module_tree import M, ModuleTree
from karst_bench.adapt.side_blocks import BackboneCuts
from karst_bench.adapt.timm_sites import classifier
from karst_bench.adapt.window_tokens import PooledPrompts, WindowTokens
from karst_bench.errors import UserError
from karst_bench.methods.base import Artefact
from karst_bench.nn.affine import Affine
from karst_bench.nn.block_hook import BlockHook
from karst_bench.nn.model_spec import Site
from karst_bench.nn.weight_delta import WeightDelta

HALVES = {"attn": ("norm1", "drop_path1"), "mlp": ("norm2", "drop_path2")}
READS = ("block", "norm", "out", "sum")
POSITIONS = ("inside", "own_drop_path", "after_drop_path")


class TimmAdaptedModel(ModuleTree):
    """A timm model and what methods put into it: the AdaptedModel of methods/base.py.

    It places modules in the tree and keeps the list of what trains, the single source for counting, saving, optimising
    and merging. Nothing rebinds a forward, nothing is selected by substring. Raises: UserError where a site, a block or
    a parameter pattern does not exist.
    """

    def __init__(self, net: nn.Module) -> None:
        if getattr(net, "_adapted_model", None) is not None:
            raise UserError("a method is already attached to this model; give several methods to one attach call")
        super().__init__(net)
        head = classifier(net)
        self._head_path = next(path for path, module in net.named_modules() if module is head)
        modules = dict(net.named_modules())
        names = (name for name, _ in net.named_parameters() if not name.startswith(f"{self._head_path}."))
        self._own = {name: (modules[name.rpartition(".")[0]], name.rpartition(".")[2]) for name in names}
        self.layers: dict[str, AdaptedLayer] = {}
        self._residuals: dict[tuple[int, str], Residual] = {}
        self._given: list[nn.Parameter] = []  # to a verb, while methods are attached
        self._trained: frozenset[str] | None = None  # the names of those, once they are
        self._block_hooks: BlockHooks | None = None
        self.merged = False
        self.method_settings: dict[str, Any] = {}
        self.artefacts: dict[str, Artefact] = {}
        self.unmergeable: list[str] = []
        for parameter in net.parameters():
            parameter.requires_grad_(False)
        for parameter in head.parameters():
            parameter.requires_grad_(True)

    def sites(self, *roles: str) -> list[Site]:
        """The sites of these roles, in network order. Raises: UserError for a role that does not exist."""
        return self.spec.having(*roles)

    def add_delta(self, site: Site, update: WeightDelta) -> None:
        """y = (W0 + dW) x + b on this site, or on its rows of a fused projection.

        Raises: UserError where the site is no linear layer.
        """
        if site.kind != "linear":
            raise UserError(f"{site.name}: a weight change needs a linear layer, this is a {site.kind}")
        self._layer(site).add_delta(self._train(update), site.rows)

    def affine(
        self, site: Site, scale: nn.Parameter | None, shift: nn.Parameter | None, *, where: str = "after", centre: float
    ) -> None:
        """y = (centre + scale) * f(x) + shift after the site, or the same on its input (`before`, linear sites only).

        Shapes: scale and shift (C,) or (1,). Raises: UserError where the place is not defined.
        """
        if where not in ("after", "before"):
            raise UserError(f"{site.name}: an affine stands before or after, not {where!r}")
        if site.rows is not None or (where == "before" and site.kind != "linear"):
            raise UserError(
                f"{site.name}: an affine {where} a {site.role} site is not defined; use qkv, proj, fc1 or fc2"
            )
        affine = self._train(Affine(scale, shift, centre=centre))
        layer = self._layer(site)
        (layer.after if where == "after" else layer.before).append(affine)

    def branch(self, site: Site, fn: nn.Module, merge: Merge | None = None, *, reads: str = "input") -> None:
        """y = base(x) + fn(x); merge(fn, W0) -> dW where the branch has a weight form in evaluation.

        reads: `input`, or `output`, y = z + fn(z) with z the site's own output so far.
        Shapes: x (..., d_in), z and what fn gives (..., rows of the site). Raises: UserError for another reading.
        """
        if reads not in ("input", "output"):
            raise UserError(f"{site.name}: a branch reads input or output, not {reads!r}")
        self._layer(site).add_branch(self._train(fn), site.rows, merge, reads)
        if merge is None:
            self.unmergeable.append(f"{type(fn).__name__} at {site.name}")

    def residual(self, block: int, half: str, fn: nn.Module, *, reads: str = "block", position: str = "inside") -> None:
        """An adapter on one half of a block; see Residual for what it reads (block | norm | out | sum) and its position.

        Raises: UserError for a half, a reading or a position that does not exist.
        """
        if reads not in READS or position not in POSITIONS or half not in HALVES:
            raise UserError(f"residual({half!r}, reads={reads!r}, position={position!r}) is not defined; use a half of "
                            f"{', '.join(HALVES)}, reads of {', '.join(READS)}, position of {', '.join(POSITIONS)}")  # fmt: skip
        self._residual(block, half).add(self._train(fn), reads, position)
        self.unmergeable.append(f"{type(fn).__name__} in block {block}")

    def before(self, site: Site, fn: nn.Module) -> None:
        """y = base(fn(x)); fn.fold_into(weight, bias) -> (weight, bias) of the plain layer that computes the same.

        Shapes: x and fn(x) (..., d_in). Raises: UserError where the site is no whole linear layer.
        """
        if site.kind != "linear" or site.rows is not None:
            raise UserError(f"{site.name}: a map before it needs a whole linear layer; use qkv, proj, fc1 or fc2")
        self._layer(site).before.append(self._train(fn))

    def block_hook(self, hook: BlockHook, *, needs_attention: Collection[int] = ()) -> None:
        """Calls the hook before, within and after every block, with a state of its own; see BlockHook.

        needs_attention: the blocks in which `mid` gets the class token's attention row. Raises: UserError for a hook with
        `mid` on Swin.
        """
        if hook.uses_mid and self.spec.family != "vit":
            raise UserError(f"{type(hook).__name__} works between attention and MLP, which only a ViT block allows; use a ViT")
        if self._block_hooks is None:
            self._block_hooks = self._at_root("block_hooks", BlockHooks())
            self._wrap_blocks(self._block_hooks)
        self._block_hooks.hooks.append(self._train(hook))
        self.unmergeable.append(type(hook).__name__)
        for i in needs_attention:
            self._block_module(i).attn.fused_attn = False  # the fused form shows no probabilities
            self._put(f"{self._block_path(i)}.attn.attn_drop", AttentionRecorder)

    def window_tokens(self, block: int, prompts: nn.Module, *, per_image: bool = False, pooled: bool = False) -> None:
        """Swin: prompts() -> (p, d), or with per_image prompts(B) -> (B, p, d), join every window of the block.

        pooled: they leave the block, the last one, as tokens, and the head pools them with the patches. Raises: UserError
        where another method pools.
        """
        module, trained, grid = self._block_module(block), self._train(prompts), self.spec.grid_of(block)
        wrap = partial(WindowTokens, block=module, prompts=trained, grid=grid, per_image=per_image, keep=pooled)
        tokens = self._put(f"{self._block_path(block)}.attn", wrap)
        if pooled and isinstance(self._home_of("norm"), Readout):
            raise UserError(f"{type(prompts).__name__} and another method both say what the head pools; attach one of them")
        if pooled:
            self._put("norm", partial(PooledPrompts, tokens=tokens))
        self.unmergeable.append(f"{type(prompts).__name__} in block {block}")

    def readout(
        self, pool: str | Callable[[Tensor], Tensor], norm: nn.Module | None = None, head: nn.Module | None = None
    ) -> None:
        """What the head sees: `cls`, `mean_patch` or fn(h), then the final norm (or `norm`), then the head (or `head`).

        Raises: UserError for a pooling that the family does not have.
        """
        self._put("norm", lambda base: Readout(base, self._pooling(pool), self._train(norm) if norm else None))
        if self.spec.family == "vit":
            self.net.global_pool = "token"  # type: ignore[assignment]
        if head is not None:
            self._put(self._head_path, lambda _: self._train(head))
        self.unmergeable.append("Readout")

    def narrowed(self, r: int, *, pruned: bool) -> tuple[list[nn.Module], dict[int, nn.Module]]:
        """(a block like each of the backbone's at 1/r of its width, the patch mergings before stages); nothing is attached.

        pruned: cut out of the backbone by magnitude, else drawn anew. Raises: UserError where r does not fit the heads.
        """
        cuts = BackboneCuts(self.net, self.spec, r)
        mergings = {stage: cuts.merging(stage, pruned=pruned) for stage in dict.fromkeys(self.spec.stages)}
        blocks = [cuts.block(i, pruned=pruned) for i in range(self.spec.depth)]
        return blocks, {stage: merging for stage, merging in mergings.items() if merging is not None}

    def frozen_backbone(self) -> None:
        """Runs every block without a graph; only what block hooks compute from it trains, so that activations can be stored.

        Raises: UserError where no hook was given before.
        """
        if self._block_hooks is None:
            raise UserError("frozen_backbone() without a block hook leaves nothing that could train but the head")
        self._block_hooks.frozen = True

    def unfreeze(self, pattern: str) -> None:
        """Trains the backbone's own parameters whose name, before any wrapping, fits the fnmatch pattern.

        Raises: UserError where none does.
        """
        names = fnmatch.filter(self._own, pattern)
        if not names:
            raise UserError(
                f"unfreeze({pattern!r}) fits no parameter of the backbone; its names look like {next(iter(self._own))!r}"
            )
        for name in names:
            parameter = self._own_parameter(name)
            parameter.requires_grad_(True)
            self._given.append(parameter)

    def share(self, name: str, module: M) -> M:
        """Registers a module that several sites use; its parameters count once, under their first site's name.

        Raises: UserError where another method took the name.
        """
        return self._at_root(name.replace(".", "_"), self._train(module))

    def attached(self) -> None:
        """All methods have said what goes where: from now on what trains is known by name, whatever object stands there."""
        ids = {id(p) for p in self._given}
        self._trained = frozenset(name for name, p in self.net.named_parameters() if id(p) in ids)
        self._given = []

    def trained(self) -> dict[str, nn.Parameter]:
        """Every trained parameter of the methods by its name in the tree, the head not included."""
        ids = {id(p) for p in self._given}
        names = self._trained if self._trained is not None else ()
        return {name: p for name, p in self.net.named_parameters() if name in names or id(p) in ids}

    def own_trained(self) -> list[str]:
        """The names of the backbone's own parameters that train, before any wrapping."""
        return [name for name in self._own if self._own_parameter(name).requires_grad]

    def frozen(self) -> dict[str, nn.Parameter]:
        """The backbone's own parameters that do not train, by their names before any wrapping; the head is none of them."""
        found = {name: self._own_parameter(name) for name in self._own}
        return {name: p for name, p in found.items() if not p.requires_grad}

    def replaced(self, old: nn.Module, new: nn.Module) -> None:
        """A module of the backbone gave way to another that holds the same parameters."""
        self._own = {name: (new if module is old else module, key) for name, (module, key) in self._own.items()}

    @property
    def block_hooks(self) -> BlockHooks | None:
        """The block hooks of this model, if a method gave one."""
        return self._block_hooks

    @property
    def residuals(self) -> Mapping[tuple[int, str], Residual]:
        """Adapters within blocks, by block and half."""
        return self._residuals

    def head(self) -> dict[str, nn.Parameter]:
        """The classifier's parameters by name."""
        ids = {id(p) for p in classifier(self.net).parameters()}
        trained = self.trained()
        return {name: p for name, p in self.net.named_parameters() if id(p) in ids and name not in trained}

    def _own_parameter(self, name: str) -> nn.Parameter:
        module, key = self._own[name]
        parameter: nn.Parameter = getattr(module, key)
        return parameter

    def _train(self, module: M) -> M:
        for parameter in module.parameters():
            parameter.requires_grad_(True)
            self._given.append(parameter)
        return module

    def _layer(self, site: Site) -> AdaptedLayer:
        if site.path not in self.layers:
            parent, name = self._homes[site.path]
            current = getattr(parent, name)
            inner = current if isinstance(current, InputRecorder | Readout | PooledPrompts) else None
            layer = AdaptedLayer(inner.base if inner else current)
            self._originals.setdefault(site.path, layer.base)
            setattr(inner or parent, "base" if inner else name, layer)
            self.layers[site.path] = layer
        return self.layers[site.path]

    def _residual(self, block: int, half: str) -> Residual:
        if (block, half) not in self._residuals:
            norm, drop_path = (f"{self._block_path(block)}.{name}" for name in HALVES[half])
            recorder = self._put(norm, InputRecorder)
            self._residuals[block, half] = self._put(drop_path, lambda base: Residual(base, recorder))
        return self._residuals[block, half]

    def _wrap_blocks(self, hooks: BlockHooks) -> None:
        stages: Sequence[int] = self.spec.stages
        for i, stage in enumerate(stages):
            first = i == 0 or stages[i - 1] != stage
            last = i == len(stages) - 1
            self._put(
                self._block_path(i), partial(HookedBlock, hooks=hooks, i=i, stage=stage, first_of_stage=first, last=last)
            )

    def _pooling(self, pool: str | Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        prefix = self.spec.prefix_tokens
        if callable(pool):
            return pool
        if pool == "mean_patch":
            return lambda h: h[:, prefix:].mean(1) if h.ndim == 3 else h.mean((1, 2))
        if pool == "cls" and prefix:
            return lambda h: h[:, 0]
        raise UserError(f"readout(pool={pool!r}) is not defined on {self.spec.family}; use mean_patch or a function")
