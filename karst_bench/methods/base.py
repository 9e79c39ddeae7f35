"""The interface between a method and the suite: what a method declares, what it may ask of a model, when it is called."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from karst_bench.nn.block_hook import BlockHook
from karst_bench.nn.model_spec import ModelSpec, Site
from karst_bench.nn.weight_delta import WeightDelta

__all__ = ["AdaptedModel", "Artefact", "BlockHook", "Method", "ModelSpec", "Site", "WeightDelta"]

Artefact = Mapping[str, Any]  # what a scoring pre-pass found


class Batches(Protocol):
    """Normalised images (b, 3, H, W) and labels (b,) int64 on the device, an epoch at a time."""

    def __len__(self) -> int: ...

    def epoch(self, generator: torch.Generator | None, skip: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches shuffled by the generator, in order without one; the first `skip` are left out."""
        ...


class AdaptedModel(Protocol):
    """The verbs by which a method says what goes where. Whatever is given to a verb trains; all else is frozen.

    On one site, whatever order the verbs came in: base with all weight changes (each sees the frozen W0), branches,
    affines. adapt/model.py says each verb's shapes and errors.
    """

    spec: ModelSpec

    def sites(self, *roles: str) -> list[Site]:
        """The sites of these roles (nn/model_spec.py lists them), in network order."""
        ...

    def add_delta(self, site: Site, update: WeightDelta) -> None:
        """y = (W0 + dW) x + b."""
        ...

    def affine(
        self, site: Site, scale: nn.Parameter | None, shift: nn.Parameter | None, *, where: str = ..., centre: float
    ) -> None:
        """y = (centre + scale) * f(x) + shift, `after` the site or `before` it."""
        ...

    def branch(self, site: Site, fn: nn.Module, merge: Callable[[Any, Tensor], Tensor] | None = ...) -> None:
        """y = base(x) + fn(x), with merge(fn, W0) -> dW where the branch has a weight form."""
        ...

    def residual(self, block: int, half: str, fn: nn.Module, *, reads: str = ..., position: str = ...) -> None:
        """An adapter on a block's `attn` or `mlp` half; it reads block | norm | out | sum, inside | after_drop_path."""
        ...

    def block_hook(self, hook: BlockHook, *, needs_attention: bool = ...) -> None:
        """Calls the hook around every block, with a state that it hands from block to block."""
        ...

    def window_tokens(self, block: int, prompts: nn.Module) -> None:
        """Swin: prompts() -> (p, d) join every attention window of the block."""
        ...

    def readout(
        self, pool: str | Callable[[Tensor], Tensor], norm: nn.Module | None = ..., head: nn.Module | None = ...
    ) -> None:
        """What the head sees: `cls`, `mean_patch` or a function of the tokens."""
        ...

    def frozen_backbone(self) -> None:
        """No graph through the blocks: only what block hooks compute from them trains."""
        ...

    def unfreeze(self, pattern: str) -> None:
        """Trains the backbone's own parameters whose names fit the fnmatch pattern."""
        ...

    def share(self, name: str, module: nn.Module) -> nn.Module:
        """Registers a module that several sites use, once."""
        ...


@dataclass(kw_only=True)
class Method:
    """One way to adapt a frozen backbone. Subclasses are dataclasses whose fields are the YAML's hyper-parameters.

    `attach` and `expected_params` are required; every other default does nothing. The docstring's first paragraph is
    the equation, which docs/methods.md prints.
    """

    name: str

    families: ClassVar[frozenset[str]] = frozenset({"vit", "swin"})
    needs_cls: ClassVar[bool] = False  # reads the class token
    changes_tokens: ClassVar[bool] = False  # adds or drops tokens
    needs_grid: ClassVar[bool] = False  # relies on an unchanged token sequence from block to block
    graphable: ClassVar[bool] = True  # False: makes Python choices each step
    composable: ClassVar[bool] = True  # False: leaves nothing for a second method to adapt
    identity_at_init: ClassVar[bool] = True  # the model starts as it was; False says why in the docstring
    may_be_zero: ClassVar[frozenset[str]] = frozenset()  # whole-number fields that are no counts
    backbone_mode: ClassVar[str] = "train"  # "eval": the frozen backbone runs without dropout and drop-path

    def score(self, spec: ModelSpec, batches: Iterable[tuple[Tensor, Tensor]]) -> Artefact | None:
        """Optional pre-pass on the training split; its result reaches attach."""
        return None

    def attach(self, model: AdaptedModel, artefact: Artefact | None) -> None:
        """Says what goes where, through the model's verbs. Raises: UserError where a value does not fit the model."""
        raise NotImplementedError(f"{type(self).__name__} must say what goes where in attach()")

    def expected_params(self, spec: ModelSpec) -> int:
        """Trained scalars without the head, in closed form; tested against the count."""
        raise NotImplementedError(f"{type(self).__name__} must state its parameter count in expected_params()")

    def stored_bits(self, spec: ModelSpec) -> int | None:
        """Bits to store what was trained, without the head; None: 32 for each trained scalar."""
        return None

    def active_params(self, spec: ModelSpec) -> int | None:
        """Trained scalars that take part in one forward pass; None: all of them."""
        return None

    def param_groups(self, named: list[tuple[str, nn.Parameter]]) -> list[dict[str, Any]]:
        """Optimiser groups: vectors and scalars are not decayed, matrices are (recipe.wd)."""
        flat = [p for _, p in named if p.ndim <= 1]
        rest = [p for _, p in named if p.ndim > 1]
        groups: list[dict[str, Any]] = [{"params": rest}, {"params": flat, "weight_decay": 0.0}]
        return [group for group in groups if group["params"]]

    def on_epoch(self, epoch: int, epochs: int) -> None:
        """Called before each epoch, counted from 0."""

    def before_step(self, step: int, total: int) -> None:
        """Called before each forward pass of training."""

    def after_step(self, step: int, total: int) -> None:
        """Called after each optimiser step, gradients in place."""

    def penalty(self) -> Tensor | float:
        """Added to the loss."""
        return 0.0
