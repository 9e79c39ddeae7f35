"""The verbs by which a method says what goes where; everything given to a verb trains, all else is frozen."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from karst_bench.adapt.layers import AdaptedLayer, Merge
from karst_bench.adapt.module_tree import M
from karst_bench.adapt.readout import ClassToken, FirstToken, MeanPatch, Readout
from karst_bench.adapt.residual import BlockInput, InputRecorder, Residual
from karst_bench.adapt.side_blocks import BackboneCuts
from karst_bench.adapt.timm_blocks import Half
from karst_bench.adapt.timm_sites import classifiers, final_norms
from karst_bench.adapt.token_verbs import POOLS, TokenVerbs
from karst_bench.adapt.trained import named
from karst_bench.errors import MisfitError, UserError
from karst_bench.methods.base import Artefact
from karst_bench.nn.affine import Affine, RowsAffine
from karst_bench.nn.model_spec import STANDARD, Site
from karst_bench.nn.weight_delta import WeightDelta

HALVES = ("attn", "mlp")
READS = ("block", "norm", "out", "sum")
POSITIONS = ("inside", "own_drop_path", "after_drop_path")

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class TimmAdaptedModel(TokenVerbs):
    """A timm model and what methods put into it: the AdaptedModel of methods/base.py.

    It places modules in the tree and keeps the list of what trains, the single source for counting, saving, optimising
    and merging. Nothing rebinds a forward, nothing is selected by substring. Raises: UserError where a site, a block or
    a parameter pattern does not exist.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self._residuals: dict[tuple[int, str], Residual] = {}
        self.merged = False
        self._flags = {name: p.requires_grad for name, p in net.named_parameters()}
        self.stand_ins: dict[nn.Module, tuple[nn.Module, str, nn.Module]] = {}  # new -> where it stands, and what stood there
        self.method_settings: dict[str, Any] = {}
        self.artefacts: dict[str, Artefact] = {}

    def freeze(self) -> None:
        """Freezes everything but the classifiers; running statistics too, which no adapter file holds."""
        for module in self.net.modules():
            if isinstance(module, BATCH_NORMS):
                self._journal.hook(module.register_forward_pre_hook(_as_in_evaluation))
        for parameter in self.net.parameters():
            parameter.requires_grad_(False)
        for head in classifiers(self.net).values():
            head.requires_grad_(True)

    def thaw(self) -> None:
        """requires_grad as it was before `freeze`, by name: of a merged model, whose layers are new."""
        for name, parameter in self.net.named_parameters():
            parameter.requires_grad_(self._flags.get(name, True))

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
        """y = (centre + scale) * f(x) + shift after the site, or the same on its input (`before`, whole linear sites only).

        Shapes: scale and shift (C,) or (1,), C the rows of a q, k or v site. Raises: UserError where the place is not defined.
        """
        if where not in ("after", "before"):
            raise UserError(f"{site.name}: an affine stands before or after, not {where!r}")
        if where == "before" and (site.rows is not None or site.kind != "linear"):
            raise UserError(
                f"{site.name}: an affine before a {site.role} site is not defined; use qkv, proj, fc1 or fc2"
            )
        affine = self._train(Affine(scale, shift, centre=centre) if site.rows is None else
                             RowsAffine(scale, shift, centre=centre, rows=site.rows))  # fmt: skip
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
        self._residual(block, half, reads).add(self._train(fn), reads, position)
        self.unmergeable.append(f"{type(fn).__name__} in block {block}")

    def before(self, site: Site, fn: nn.Module) -> None:
        """y = base(fn(x)); fn.fold_into(weight, bias) -> (weight, bias) of the plain layer that computes the same.

        Shapes: x and fn(x) (..., d_in). Raises: MisfitError where the site is no whole linear layer.
        """
        if site.kind != "linear" or site.rows is not None:
            raise MisfitError(
                f"the method changes the input of {site.role} alone, but {site.path} computes several layers from one input; use a "
                f"model with separate ones, {STANDARD}, or sites of qkv, proj, fc1 or fc2"
            )
        self._layer(site).before.append(self._train(fn))

    def readout(
        self, pool: str | Callable[[Tensor], Tensor], norm: nn.Module | None = None, head: nn.Module | None = None
    ) -> None:
        """What the head sees: `cls`, `mean_patch`, fn(h), or `own`, what the model pools; then the final norm (or `norm`), then
        the head (or `head`).

        Raises: UserError for a pooling that the model does not have.
        """
        norms = final_norms(self.net)
        if pool != "own" and self.spec.family != "vit":
            raise UserError(f"readout(pool={pool!r}) is not defined on {self.spec.family}, which pools its patches; use own")
        if pool == "own":
            for path in norms if norm is not None else ():
                self._put(path, lambda base: Readout(base, None, norm))
            if norm is not None:
                self._train(norm)
        else:
            self._put("norm", lambda base: Readout(base, self._pooling(pool), self._train(norm) if norm else None,
                                                   tokens=len(self._head_paths)))  # fmt: skip
            self._journal.set(self.net, "global_pool", "token")
            if getattr(self.net, "attn_pool", None) is not None:
                self._journal.set(self.net, "pool_include_prefix", True)  # the one token is no prefix
                self._put("attn_pool", FirstToken)
            self._guard(POOLS, only_norm=True)
        if head is not None:
            new = self._train(head)
            for path in self._head_paths:
                self._put(path, lambda _: new)
        self.unmergeable.append("Readout")

    def narrowed(self, r: int, *, pruned: bool) -> tuple[list[nn.Module], dict[int, nn.Module]]:
        """(a block like each of the backbone's at 1/r of its width, the patch mergings before stages); nothing is attached.

        pruned: cut out of the backbone by magnitude, else drawn anew. Raises: UserError where r does not fit the heads.
        """
        cuts = BackboneCuts(self.net, self.spec, r)
        mergings = {stage: cuts.merging(stage, pruned=pruned) for stage in dict.fromkeys(self.spec.stages)}
        blocks = [cuts.block(i, pruned=pruned) for i in range(self.spec.depth)]
        return blocks, {stage: merging for stage, merging in mergings.items() if merging is not None}

    def unfreeze(self, pattern: str) -> None:
        """Trains the backbone's own parameters whose name, before any wrapping, fits the fnmatch pattern.

        Raises: UserError where none does.
        """
        self._parameters.unfreeze(pattern)

    def share(self, name: str, module: M) -> M:
        """Registers a module that several sites use; its parameters count once, under their first site's name.

        Raises: UserError where another method took the name.
        """
        return self._at_root(name.replace(".", "_"), self._train(module))

    def trained(self) -> dict[str, nn.Parameter]:
        """Every trained parameter of the methods by its name in the tree, the head not included.

        By where it stands, not by the object that stands there now: a conversion may have put another one in its place.
        Raises: UserError where a parameter that several modules share was put apart.
        """
        return named(self.net, self._parameters.places())

    def own_trained(self) -> list[str]:
        """The names of the backbone's own parameters that train, before any wrapping."""
        return [name for name, place in self._parameters.own.items() if getattr(*place).requires_grad]

    @property
    def residuals(self) -> Mapping[tuple[int, str], Residual]:
        """Adapters within blocks, by block and half."""
        return self._residuals

    def head(self) -> dict[str, nn.Parameter]:
        """The classifiers' parameters by name."""
        places = {(module, name) for head in classifiers(self.net).values() for module in head.modules()
                  for name in module._parameters}  # fmt: skip
        return named(self.net, places - self._parameters.places())

    def frozen(self) -> dict[str, nn.Parameter]:
        """The backbone's own parameters that do not train, by their names before any wrapping; the head is none of them."""
        found: dict[str, nn.Parameter] = {name: getattr(*place) for name, place in self._parameters.own.items()}
        return {name: p for name, p in found.items() if not p.requires_grad}

    def replaced(self, parent: nn.Module, name: str, new: nn.Module) -> None:
        """Puts `new`, which holds the very parameters of what stands there, in its place."""
        old = getattr(parent, name)
        self.stand_ins[new] = parent, name, old
        self._journal.set(parent, name, new)
        self._parameters.moved(((old, key), (new, key)) for key in old._parameters)

    def _layer(self, site: Site) -> AdaptedLayer:
        layer = self._layer_at(site.path)
        self._parameters.moved(self._moved)
        self._moved = []
        return layer

    def _residual(self, block: int, half: str, reads: str) -> Residual:
        known = self._layout(block).halves.get(half)
        if known is None:
            kind = type(self._block_module(block)).__name__
            raise self._misfit("needs one residual branch for attention, then one for the MLP",
                               f"a {kind} of this model computes several in parallel")  # fmt: skip
        if known.stream is None and reads != "out":
            sublayer = "attention" if half == "attn" else "the MLP"
            raise self._misfit(f"reads the tokens before {sublayer}", f"{sublayer} of this model pools them")
        if (block, half) not in self._residuals:
            path, recorder = self._block_path(block), self._recorder(block, known)
            self._residuals[block, half] = self._put(f"{path}.{known.drop_path}", lambda base: Residual(base, recorder))
        return self._residuals[block, half]

    def _recorder(self, block: int, half: Half) -> InputRecorder | BlockInput | None:
        if half.stream is None:
            return None
        if half.stream == "":
            recorder = BlockInput()
            self._journal.hook(self._block_module(block).register_forward_pre_hook(recorder))
            return recorder
        path = f"{self._block_path(block)}.{half.stream}"
        return self._put(path, partial(InputRecorder, after_norm=half.after_norm))

    def _pooling(self, pool: str | Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        if callable(pool):
            return pool
        if pool == "mean_patch":
            return MeanPatch(self.spec.prefix_tokens)
        if pool == "cls" and self.spec.class_token:
            return ClassToken()
        raise UserError(f"readout(pool={pool!r}) is not defined on this {self.spec.model}; use mean_patch, own or a function")


def _as_in_evaluation(norm: nn.Module, _: Any) -> None:
    """Forward pre-hook of a batch norm: it uses the statistics it was pre-trained with, and leaves them as they are."""
    norm.eval()
