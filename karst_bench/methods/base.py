"""The interface between a method and the suite: what it may declare, and when it is called."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from karst_bench.nn.block_hook import BlockHook
from karst_bench.nn.model_spec import ModelSpec, Site
from karst_bench.nn.weight_delta import WeightDelta

Artefact = Mapping[str, Any]


class Batches(Protocol):
    """Normalised images (b, 3, H, W) and labels (b,) int64 on the device, an epoch at a time."""

    def __len__(self) -> int: ...

    def epoch(self, generator: torch.Generator | None, skip: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches shuffled by the generator, in order without one; the first `skip` are left out."""
        ...


class AdaptedModel(Protocol):
    """The verbs a method may use; attach/adapted model.py says what each does. Whatever is given to a verb trains."""

    spec: ModelSpec

    def sites(self, *roles: str) -> list[Site]: ...
    def add_delta(self, site: Site, update: WeightDelta) -> None: ...
    def affine(
        self, site: Site, scale: nn.Parameter | None, shift: nn.Parameter | None, *, where: str = ..., centre: float
    ) -> None: ...
    def branch(self, site: Site, fn: nn.Module, merge: Callable[[Any, Tensor], Tensor] | None = ...) -> None: ...
    def residual(self, block: int, half: str, fn: nn.Module, *, reads: str = ..., position: str = ...) -> None: ...
    def block_hook(self, hook: BlockHook, *, needs_attention: bool = ...) -> None: ...
    def window_tokens(self, block: int, prompts: nn.Module) -> None: ...
    def readout(
        self, pool: str | Callable[[Tensor], Tensor], norm: nn.Module | None = ..., head: nn.Module | None = ...
    ) -> None: ...
    def frozen_backbone(self) -> None: ...
    def unfreeze(self, pattern: str) -> None: ...
    def share(self, name: str, module: nn.Module) -> nn.Module: ...


@dataclass(kw_only=True)
class Method:
    """One way to adapt a frozen backbone. Subclasses are dataclasses whose fields are the YAML's hyper-parameters.

    `attach` is the only required part; every other default does nothing.
    """

    name: str

    families: ClassVar[frozenset[str]] = frozenset({"vit", "swin"})
    needs_cls: ClassVar[bool] = False
    needs_attention: ClassVar[bool] = False
    changes_tokens: ClassVar[bool] = False
    needs_grid: ClassVar[bool] = False  # relies on an unchanged token sequence from block to block
    graphable: ClassVar[bool] = True  # False: makes Python choices each step
    composable: ClassVar[bool] = True  # False: leaves nothing for a second method to adapt
    identity_at_init: ClassVar[bool] = True
    may_be_zero: ClassVar[frozenset[str]] = frozenset()  # whole-number fields that are no counts
    backbone_mode: ClassVar[str] = "train"  # "eval": the frozen backbone runs without drop-path

    def score(self, spec: ModelSpec, batches: Iterable[tuple[Tensor, Tensor]]) -> Artefact | None:
        """Optional pre-pass on the training split; its result reaches attach."""
        return None

    def attach(self, model: AdaptedModel, artefact: Artefact | None) -> None:
        """Says what goes where, through the adapted model's verbs."""
        raise NotImplementedError(f"{type(self).__name__} must say what goes where in attach()")

    def expected_params(self, spec: ModelSpec) -> int:
        """Trained scalars without the head, in closed form; tested against the count."""
        raise NotImplementedError(f"{type(self).__name__} must state its parameter count in expected_params()")

    def stored_bits(self, spec: ModelSpec) -> int:
        """Bits to store what was trained, without the head."""
        return 32 * self.expected_params(spec)

    def active_params(self, spec: ModelSpec) -> int:
        """Trained scalars that take part in one forward pass."""
        return self.expected_params(spec)

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
        """Called after each optimiser step, gradients still in place."""

    def penalty(self) -> Tensor | float:
        """Added to the loss."""
        return 0.0
