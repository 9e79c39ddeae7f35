"""SPT: sensitivity-aware tuning, where a scoring pre-pass says which weights train [arXiv 2303.08566]."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from karst_bench.errors import MisfitError, UserError
from karst_bench.methods.base import AdaptedModel, Artefact, Method, ModelSpec, ScoringModel
from karst_bench.nn.bottleneck import Bottleneck
from karst_bench.nn.drop_path import DroppedBranch
from karst_bench.nn.lowrank import DroppedLowRank, LowRankProduct
from karst_bench.nn.model_spec import Site
from karst_bench.nn.sparse import SparseEntries

MATRICES = ("q", "k", "v", "proj", "fc1", "fc2")
VECTORS = ("qkv", "proj", "fc1", "fc2", "norm1", "norm2", "final_norm")
KINDS = ("lora", "adapter")
Owners = list[tuple[str, Tensor, int | None]]  # a name, its sensitivities, the scalars of its module


@dataclass(kw_only=True)
class SPT(Method):
    """s_n = sum_batches g_n^2; y = (W0 + sparse dW) x + b + s B A x, A and B only where a matrix is sensitive  [SPT, Eq. 3-6]

    The tau most sensitive weights of the backbone are chosen, tau such that the total comes closest to `budget`. A matrix
    with at least 1/alpha of its module's scalars among them gets the module: LoRA of rank r (`lora`), or a bottleneck of
    width r on its output (`adapter`; on the input of proj). Another trains the chosen entries alone. A bias or norm with
    at least 1/beta of its entries among them trains whole, else not at all. The class token trains always. Shapes: A (r,
    d_in), B (d_out, r).
    """

    kind: str
    budget: int
    r: int
    alpha: float
    beta: float
    dropout: float
    branch_drop: float
    score_batches: int
    score_batch: int

    scored: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.kind not in KINDS or min(self.alpha, self.beta) <= 0:
            raise UserError(f"method.kind={self.kind!r}, alpha={self.alpha}, beta={self.beta}; use kind of {', '.join(KINDS)}, "
                            "alpha and beta above 0")  # fmt: skip
        self._found: Artefact | None = None

    def score(self, model: ScoringModel) -> Artefact:
        """The chosen entries of a matrix under its site's name; facts: structured sites, vectors by name, tau, total."""
        sums: dict[str, Tensor] = {}
        for batch in model.batches(self.score_batches, self.score_batch):
            for name, gradient in batch.gradients.items():
                sums[name] = gradient.square() if name not in sums else sums[name].add_(gradient.square())
        return self.chosen(model.spec, sums)

    def chosen(self, spec: ModelSpec, sensitivity: dict[str, Tensor]) -> Artefact:
        """What trains, from a sensitivity >= 0 for every entry of the backbone's parameters, by name."""
        owners: Owners = [(site.name, _rows(site, sensitivity), self._module(site)) for site in spec.having(*MATRICES)]
        owners += [(name, sensitivity[name], None) for name in _vectors(spec)]
        flat = torch.cat([values.reshape(-1) for _, values, _ in owners])
        if not flat.any():
            raise UserError(
                f"{self.name}: no weight of the backbone has a gradient: the head is zero, as timm starts those of some models, or "
                "there is no image; draw the head first, as torch.nn.init.trunc_normal_(model.get_classifier().weight, std=0.02)"
            )
        owner = torch.repeat_interleave(torch.arange(len(owners)), torch.tensor([v.numel() for _, v, _ in owners]))
        starts = torch.tensor([0, *(v.numel() for _, v, _ in owners)]).cumsum(0)
        most = min(4 * self.budget, int(flat.count_nonzero()))
        order = flat.topk(most).indices.cpu()
        ranked = owner[order]
        totals = self._cls(spec) + self._increments(ranked, owners).cumsum(0)  # after each further weight
        tau = int((totals - self.budget).abs().argmin()) + 1
        counts = torch.bincount(ranked[:tau], minlength=len(owners))
        facts: dict[str, Any] = {"structured": [], "vectors": [], "tau": tau, "total": int(totals[tau - 1]), "budget": self.budget}
        tensors = {}
        for n, (count, (name, values, module)) in enumerate(zip(counts.tolist(), owners, strict=True)):
            cost = self._cost(count, values.numel(), module)
            if module is None:
                facts["vectors"] += [name] if cost else []
            elif count and cost == module:
                facts["structured"].append(name)
            elif count:
                tensors[name] = (order[:tau][ranked[:tau] == n] - starts[n]).sort().values.int()
        return Artefact(tensors, facts)

    def attach(self, model: AdaptedModel, artefact: Artefact | None) -> None:
        self._found = artefact
        sites = model.sites(*MATRICES)
        structured = {site.name for site in sites} if artefact is None else set(artefact.facts["structured"])
        for site in sites:
            if artefact is not None and site.name in artefact.tensors:
                model.add_delta(site, SparseEntries(site.d_out, site.d_in, index=artefact.tensors[site.name]))
            elif site.name in structured:
                self._attach_module(model, site)
        for name in _vectors(model.spec) if artefact is None else artefact.facts["vectors"]:
            model.unfreeze(name)
        if self._cls(model.spec):
            model.unfreeze("cls_token")

    def expected_params(self, spec: ModelSpec) -> int:
        if self._found is None:
            return self.budget
        facts, sizes = self._found.facts, dict(spec.names)
        structured = sum(self._module(site) for site in spec.having(*MATRICES) if site.name in facts["structured"])
        sparse = sum(len(index) for index in self._found.tensors.values())
        return structured + sparse + sum(sizes[name] for name in facts["vectors"]) + self._cls(spec)

    def _attach_module(self, model: AdaptedModel, site: Site) -> None:
        drop = 0.0 if site.role == "proj" else self.dropout
        if self.kind == "lora":
            update = DroppedLowRank(LowRankProduct(site.d_out, site.d_in, r=self.r, s=1.0), input_p=drop)
            model.branch(site, DroppedBranch(update, p=self.branch_drop), merge=DroppedBranch.delta)
        else:
            bottleneck = Bottleneck(site.d_out, h=self.r, s=1.0, act="gelu", dropout=0.0)
            adapter = DroppedBranch(nn.Sequential(nn.Dropout(drop), bottleneck), p=self.branch_drop)
            model.branch(site, adapter, reads="input" if site.role == "proj" else "output")

    def _module(self, site: Site) -> int:
        """Scalars of the site's module."""
        if self.kind == "lora":
            return self.r * (site.d_in + site.d_out)
        return 2 * self.r * site.d_out + self.r + site.d_out

    def _increments(self, ranked: Tensor, owners: Owners) -> Tensor:
        """What each weight of the ranking adds to the total, the more sensitive ones being chosen: (K,) int64."""
        order = ranked.argsort(stable=True)
        sizes = torch.bincount(ranked, minlength=len(owners))
        nth = torch.empty_like(ranked)  # how many of its owner's weights are chosen with it
        nth[order] = torch.arange(len(ranked)) - (sizes.cumsum(0) - sizes)[ranked[order]] + 1
        steps = torch.zeros_like(ranked)
        for n, (_, values, module) in enumerate(owners):
            costs = [self._cost(count, values.numel(), module) for count in range(int(sizes[n]) + 1)]
            own = ranked == n
            steps[own] = torch.tensor(costs).diff()[nth[own] - 1]
        return steps

    def _cost(self, count: int, size: int, module: int | None) -> int:
        """Scalars that train where `count` of `size` entries are sensitive."""
        if module is None:
            return size if count * self.beta >= size else 0
        return module if count * self.alpha >= module else count

    def _cls(self, spec: ModelSpec) -> int:
        return spec.embed_dim if spec.class_token else 0


def _rows(site: Site, sensitivity: dict[str, Tensor]) -> Tensor:
    name = f"{site.path}.weight"
    if name not in sensitivity:
        raise MisfitError(
            f"the method scores the weight of {site.name}, and this model keeps q, k and v apart; use a method without a scoring "
            "pass, such as lora"
        )
    weight = sensitivity[name]
    return weight if site.rows is None else weight[site.rows[0] : site.rows[1]]


def _vectors(spec: ModelSpec) -> Iterator[str]:
    """The names of the biases and norm weights inside blocks and of the final norm."""
    for site in spec.having(*VECTORS):
        yield from ([f"{site.path}.weight"] if site.kind == "norm" else [])
        yield from site.biases
