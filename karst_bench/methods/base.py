"""The interface between a method and the suite: what a method declares, what it may ask of a model, when it is called."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from karst_bench.methods.subnets import SearchStages, Subnet, SubnetSpace
from karst_bench.nn.block_hook import BlockHook
from karst_bench.nn.model_spec import ModelSpec, Site
from karst_bench.nn.weight_delta import WeightDelta

__all__ = ["AdaptedModel", "Artefact", "BlockHook", "Method", "ModelSpec", "ScoringModel", "Site", "WeightDelta"]


@dataclass(frozen=True)
class Artefact:
    """What a scoring pre-pass or a search found, kept in a file beside the record: CPU tensors by name, JSON-able facts."""

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]


class Batches(Protocol):
    """Normalised images (b, 3, H, W) and labels (b,) int64 on the device, an epoch at a time."""

    def __len__(self) -> int: ...

    def epoch(self, generator: torch.Generator | None, skip: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches shuffled by one randperm of the generator, in order without one; the first `skip` are left out."""
        ...


@dataclass(frozen=True)
class ScoredBatch:
    """One batch through the unadapted model and back, from the mean cross-entropy of a fresh head.

    images: how many; gradients: of the backbone's own parameters by name, overwritten by the next batch; inputs: (x,
    dL/dx) of each site that was asked for, by its path.
    """

    images: int
    gradients: Mapping[str, Tensor]
    inputs: Mapping[str, tuple[Tensor, Tensor]]


class ScoringModel(Protocol):
    """What a scoring pre-pass may look at: the unadapted backbone over the training split, in train mode."""

    spec: ModelSpec

    def weight(self, name: str) -> Tensor:
        """One of the backbone's own parameters, detached."""
        ...

    def batches(self, count: int, size: int, *, inputs: Sequence[Site] = ()) -> Iterator[ScoredBatch]:
        """The first `count` batches of `size` images in the split's order, fewer where it ends."""
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
        """y = (W0 + dW) x + b + db."""
        ...

    def affine(
        self, site: Site, scale: nn.Parameter | None, shift: nn.Parameter | None, *, where: str = ..., centre: float
    ) -> None:
        """y = (centre + scale) * f(x) + shift, `after` the site or `before` it."""
        ...

    def branch(
        self, site: Site, fn: nn.Module, merge: Callable[[Any, Tensor], Tensor] | None = ..., *, reads: str = ...
    ) -> None:
        """y = base(x) + fn(x), with merge(fn, W0) -> dW where the branch has a weight form; or fn reads the `output`."""
        ...

    def residual(self, block: int, half: str, fn: nn.Module, *, reads: str = ..., position: str = ...) -> None:
        """An adapter on a block's `attn` or `mlp` half; it reads block | norm | out | sum, inside | after_drop_path."""
        ...

    def block_hook(self, hook: BlockHook, *, needs_attention: Collection[int] = ...) -> None:
        """Calls the hook around every block, with a state that it hands from block to block; `mid` gets the class token's
        attention in the blocks that need it."""
        ...

    def window_tokens(self, block: int, prompts: nn.Module, *, per_image: bool = ..., pooled: bool = ...) -> None:
        """Swin: prompts() -> (p, d), or prompts(B) -> (B, p, d), join every attention window; pooled: those of the last block."""
        ...

    def before(self, site: Site, fn: nn.Module) -> None:
        """y = base(fn(x)), with fn.fold_into(weight, bias) for merging."""
        ...

    def readout(
        self, pool: str | Callable[[Tensor], Tensor], norm: nn.Module | None = ..., head: nn.Module | None = ...
    ) -> None:
        """What the head sees: `cls`, `mean_patch`, `own` (what the model pools) or a function of the tokens."""
        ...

    def grid(self, block: int) -> Callable[[], tuple[int, int]]:
        """() -> (rows, columns) of the patches that a block is given, asked in the forward pass."""
        ...

    def narrowed(self, r: int, *, pruned: bool) -> tuple[list[nn.Module], dict[int, nn.Module]]:
        """Blocks of the backbone's own kind at 1/r of its width, and the patch mergings before stages, for a side network."""
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
    scored: ClassVar[bool] = False  # attached from what `score` found; without it, the whole set of candidates is
    graphable: ClassVar[bool] = True  # False: makes Python choices each step
    composable: ClassVar[bool] = True  # False: leaves nothing for a second method to adapt
    identity_at_init: ClassVar[bool] = True  # the model starts as it was; False says why in the docstring
    may_be_zero: ClassVar[frozenset[str]] = frozenset()  # whole-number fields that are no counts
    backbone_mode: ClassVar[str] = "train"  # "eval": the frozen backbone runs without dropout and drop-path

    def score(self, model: ScoringModel) -> Artefact:
        """The pre-pass of a `scored` method, on the training split alone; its result reaches attach."""
        raise NotImplementedError(f"{type(self).__name__} is scored and must say in score() what it looks for")

    def search_stages(self) -> SearchStages | None:
        """How a method that searches (methods/searched.py) trains its supernet and searches it; None: it does not."""
        return None

    def subnets(self, spec: ModelSpec) -> SubnetSpace:
        """All subnets of the supernet on this backbone."""
        raise NotImplementedError(f"{type(self).__name__} does not search")

    def choose(self, subnet: Subnet) -> None:
        """The attached supernet computes this subnet from now on."""
        raise NotImplementedError(f"{type(self).__name__} does not search")

    def found(self, subnet: Subnet, facts: Mapping[str, Any] | None = None) -> Artefact:
        """What a search hands to `attach`: the subnet that is to be built, and what else is known of it."""
        return Artefact({}, {"subnet": list(subnet), **(facts or {})})

    def attach(self, model: AdaptedModel, artefact: Artefact | None) -> None:
        """Says what goes where, through the model's verbs. Raises: UserError where a value does not fit the model."""
        raise NotImplementedError(f"{type(self).__name__} must say what goes where in attach()")

    def expected_params(self, spec: ModelSpec) -> int:
        """Trained scalars without the head, in closed form; tested against the count.

        Of a scored method: what its artefact says, before it is attached the budget or the count of all candidates.
        """
        raise NotImplementedError(f"{type(self).__name__} must state its parameter count in expected_params()")

    def stored_bits(self, spec: ModelSpec) -> int | None:
        """Bits to store what was trained, without the head; None: 32 for each trained scalar."""
        return None

    def active_params(self, spec: ModelSpec) -> int | None:
        """Trained scalars that take part in one forward pass; None: all of them."""
        return None

    def update_nonzeros(self, spec: ModelSpec) -> int | None:
        """Entries of the backbone's weights that the change touches; None: as the sites say."""
        return None

    def param_groups(self, named: list[tuple[str, nn.Parameter]]) -> list[dict[str, Any]]:
        """Optimiser groups {params, lr, weight_decay} where this method departs from the recipe; the rest goes by it."""
        return []

    def on_epoch(self, epoch: int, epochs: int) -> None:
        """Called before each epoch, counted from 0."""

    def before_step(self, step: int, total: int) -> None:
        """Called before each forward pass of training."""

    def after_step(self, step: int, total: int) -> None:
        """Called after each optimiser step, gradients in place."""

    def penalty(self) -> Tensor | float:
        """Added to the loss."""
        return 0.0
