"""NOAH: how many prompts, LoRA ranks and adapter units each block gets, searched [arXiv 2206.04673]."""

from dataclasses import dataclass
from typing import ClassVar

from karst_bench.errors import UserError
from karst_bench.methods.base import AdaptedModel, Artefact, ModelSpec
from karst_bench.methods.searched import SearchedMethod
from karst_bench.methods.subnets import LayeredSpace, Subnet
from karst_bench.nn.prompts import Prompts
from karst_bench.nn.sliced import INITS, SlicedBottleneck, SlicedLoRA, TailPrompts

KINDS = ("vpt", "lora", "adapter")


@dataclass(kw_only=True)
class NOAH(SearchedMethod):
    """[x; P_i[:p_i]] -> block i,  qkv(x) + W_b[:, :l_i] W_a[:l_i] x,  u + W_2 g(W_1 u + b_1) + b_2 of width a_i  [NOAH]

    u = DropPath(MLP(LN x)), g(z) = z sigmoid(1.702 z). Each block has three sizes, leading slices of the supernet's: p_i
    prompts at the end of the sequence, in the place of those before (0 keeps those), l_i ranks of LoRA on the fused qkv,
    a_i units of an adapter. A kind fills the first `depths` (shares of the network) of the blocks. The found subnet is
    trained anew from the pre-trained weights. subnet: {vpt, lora, adapter}, a size or one for each block, in the place of a
    search. init: `code` draws every linear weight trunc-normal 0.02, as the published code does; `paper` does not.
    """

    families: ClassVar[frozenset[str]] = frozenset({"vit"})
    needs_cls: ClassVar[bool] = True
    changes_tokens: ClassVar[bool] = True
    identity_at_init: ClassVar[bool] = False
    may_be_zero: ClassVar[frozenset[str]] = frozenset({"subnet"})
    retrains: ClassVar[bool] = True
    sizes: list[int]
    depths: list[float]
    dropout: float
    init: str
    p_depth: float
    subnet: dict[str, int | list[int]] | None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.init not in INITS or not all(0 < share <= 1 for share in self.depths) or not 0 <= self.p_depth <= 1:
            raise UserError(f"method.init={self.init!r}, depths={self.depths}, p_depth={self.p_depth}; use init of "
                            f"{', '.join(INITS)}, depths in (0, 1], p_depth in [0, 1]")  # fmt: skip
        if self.subnet is not None and set(self.subnet) != set(KINDS):
            raise UserError(f"method.subnet has {', '.join(sorted(self.subnet))}; it needs sizes of {', '.join(KINDS)}")
        if self.subnet is None and self._stages is None:
            raise UserError("method.stages is empty and method.subnet is null; give one: stages to search, or a subnet")

    def attach(self, model: AdaptedModel, artefact: Artefact | None) -> None:
        spec = model.spec
        given = self._given(spec)
        subnet = self._begin(spec, artefact if given is None else self.found(given))
        prompts, self._loras, self._adapters = dict[int, Prompts](), dict[int, SlicedLoRA](), dict[int, SlicedBottleneck]()
        for block, (site, (p, rank, a)) in enumerate(zip(model.sites("qkv"), self._by_block(subnet), strict=True)):
            if p:
                prompts[block] = Prompts(p, site.d_in, patch=spec.patch, embed_dim=spec.embed_dim, dropout=self.dropout)
            if rank:
                lora = SlicedLoRA(site.d_out, site.d_in, size=rank, dropout=self.dropout, init=self.init)
                model.branch(site, lora, merge=SlicedLoRA.delta)
                self._loras[block] = lora
            if a:
                adapter = SlicedBottleneck(site.d_in, size=a, dropout=self.dropout, init=self.init)
                model.residual(block, "mlp", adapter, reads="out", position="after_drop_path")
                self._adapters[block] = adapter
        self._prompts = TailPrompts(prompts, spec.depth)
        if prompts:
            model.block_hook(self._prompts)

    def subnets(self, spec: ModelSpec) -> LayeredSpace:
        depths = sorted({max(1, round(share * spec.depth)) for share in self.depths})
        kinds = {kind: {size: _cost(kind, size, spec.embed_dim) for size in sorted(set(self.sizes))} for kind in KINDS}
        return LayeredSpace(kinds, layers=spec.depth, depths=depths, p=self.p_mutate, p_depth=self.p_depth)

    def choose(self, subnet: Subnet) -> None:
        for block, (p, rank, a) in enumerate(self._by_block(subnet)):
            self._prompts.active[block] = p
            if block in self._loras:
                self._loras[block].active = rank
            if block in self._adapters:
                self._adapters[block].active = a

    def expected_params(self, spec: ModelSpec) -> int:
        subnet = self._given(spec) or self._fixed or self.subnets(spec).largest()
        return sum(_cost(kind, size, spec.embed_dim) for sizes in self._by_block(subnet)
                   for kind, size in zip(KINDS, sizes, strict=True) if size)  # fmt: skip

    def active_params(self, spec: ModelSpec) -> int | None:
        searching = self._given(spec) is None and self._fixed is None
        return round(self.subnets(spec).mean_params()) if searching else None

    def _given(self, spec: ModelSpec) -> Subnet | None:
        """`subnet` with a size for each block. Raises: UserError where it has another number of blocks."""
        if self.subnet is None:
            return None
        lists = {kind: [sizes] * spec.depth if isinstance(sizes, int) else list(sizes) for kind, sizes in self.subnet.items()}
        for kind, sizes in lists.items():
            if len(sizes) != spec.depth:
                raise UserError(f"method.subnet.{kind} has {len(sizes)} sizes, the backbone {spec.depth} blocks; give one size "
                                f"or {spec.depth}")  # fmt: skip
        return tuple(size for kind in KINDS for size in lists[kind])

    def _by_block(self, subnet: Subnet) -> list[tuple[int, int, int]]:
        depth = len(subnet) // len(KINDS)
        return list(zip(subnet[:depth], subnet[depth : 2 * depth], subnet[2 * depth :], strict=True))


def _cost(kind: str, size: int, d: int) -> int:
    """Scalars that take part. Prompts before the first block and their position table, which the published code keeps and
    counts, are overwritten by block 0's prompts: there are none here."""
    return {"vpt": d * size, "lora": 4 * d * size, "adapter": 2 * d * size + size + d}[kind]
