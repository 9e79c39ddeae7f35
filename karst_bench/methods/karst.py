"""KARST: sums of Kronecker-adapted weights; with extra=rst, re-scaled outputs [arXiv 2502.06779]."""

import warnings
from dataclasses import dataclass
from typing import Any

from torch import nn

from karst_bench.errors import UserError
from karst_bench.methods.base import AdaptedModel, Artefact, Method, ModelSpec
from karst_bench.nn.kronecker import INITS, KroneckerSum, divisors, drawn
from karst_bench.nn.model_spec import Site

QKV_MODES = {"split_A_shared_B": ("qkv",), "fused": ("qkv",), "split_all": ("q", "k", "v"), "qv": ("q", "v")}
SHARING = ("none", "block", "kernels")
PER_RANK = "1/r"  # the published code's sigma at its multiplier of 1


@dataclass(kw_only=True)
class Karst(Method):
    """dW = sigma sum_n C_n (x) (A_n B_n),  y = (W0 + dW) x + b                    [KARST, Eq. 3]

    Shapes: C_n (m, m), A_n (d_out/m, r), B_n (r, d_in/m). By qkv_mode, q, k and v share C and B with an A each
    (`split_A_shared_B`, the published code), are one 3d x d matrix (`fused`), are apart (`split_all`), or q and v alone
    are adapted with one C (`qv`). share_c: every linear its own C (`none`), the linears of a block one C per kernel
    (`block`), or one C per linear for all kernels (`kernels`, in which N kernels are one of rank N r). r: one rank, one
    per stage, or either by family ({vit: 8, swin: [2, 2, 4, 8]}). train_norms also trains every LayerNorm. The
    re-scaling of Eq. 4 is extra=rst.
    """

    N: int
    m: int
    r: int | list[int] | dict[str, int | list[int]]
    sigma: float | str
    sites: list[str]
    qkv_mode: str
    share_c: str
    train_norms: bool
    init: str

    def __post_init__(self) -> None:
        if self.qkv_mode not in QKV_MODES or self.share_c not in SHARING:
            raise UserError(
                f"method.qkv_mode={self.qkv_mode!r}, method.share_c={self.share_c!r}; "
                f"use qkv_mode of {', '.join(QKV_MODES)} and share_c of {', '.join(SHARING)}"
            )
        if self.init not in INITS or (isinstance(self.sigma, str) and self.sigma != PER_RANK):
            raise UserError(f"method.init={self.init!r}, method.sigma={self.sigma!r}; use init of {', '.join(INITS)}, and a number "
                            f"or {PER_RANK} for sigma")  # fmt: skip
        if self.share_c == "kernels" and self.N > 1:
            warnings.warn(
                f"share_c=kernels makes N void: {self.N} kernels with one C are one kernel of rank N r = {self.N} r",
                stacklevel=2,
            )

    def attach(self, model: AdaptedModel, artefact: Artefact | None) -> None:
        ranks, blocks = self._ranks(model.spec), dict[Any, nn.Parameter]()
        for site in self._sites(model.spec):
            self._fits(site)
            model.add_delta(site, self._change(site, ranks[site.stage], self._shared_c(site, blocks)))
        if self.train_norms:
            for site in self._norms(model.spec):
                model.unfreeze(f"{site.path}.*")

    def expected_params(self, spec: ModelSpec) -> int:
        total, ranks, blocks = 0, self._ranks(spec), set[Any]()
        for site in self._sites(spec):
            r, key = ranks[site.stage], self._c_key(site)
            total += self.N * r * (site.d_out + site.d_in) // self.m
            if key not in blocks:
                total += (1 if self.share_c == "kernels" else self.N) * self.m**2
                blocks.add(key)
        return total + (sum((1 + site.bias) * site.d_out for site in self._norms(spec)) if self.train_norms else 0)

    def _sites(self, spec: ModelSpec) -> list[Site]:
        roles = [role for place in self.sites for role in (QKV_MODES[self.qkv_mode] if place == "qkv" else (place,))]
        return spec.having(*roles)

    def _norms(self, spec: ModelSpec) -> list[Site]:
        return spec.having("embed_norm", "norm1", "norm2", "reduction_norm", "final_norm")

    def _change(self, site: Site, r: int, C: nn.Parameter | None) -> KroneckerSum:
        sigma = 1.0 / r if self.sigma == PER_RANK else float(self.sigma)
        chunks = 3 if site.role == "qkv" and self.qkv_mode == "split_A_shared_B" else 1
        return KroneckerSum(
            site.d_out, site.d_in, N=self.N, m=self.m, r=r, sigma=sigma, init=self.init, chunks=chunks, C=C
        )

    def _shared_c(self, site: Site, made: dict[Any, nn.Parameter]) -> nn.Parameter | None:
        """The C that this site shares with others; None where it owns one."""
        key, kernels = self._c_key(site), 1 if self.share_c == "kernels" else self.N
        if key == site.name and self.share_c != "kernels":
            return None
        if key not in made:
            made[key] = nn.Parameter(drawn(self.init, kernels, self.m, self.m, fan_in=self.m))
        return made[key]

    def _c_key(self, site: Site) -> Any:
        if self.share_c == "block" and site.block is not None:
            return site.block
        return site.path if self.qkv_mode == "qv" and site.role in "qv" else site.name

    def _ranks(self, spec: ModelSpec) -> list[int]:
        """The rank of each stage."""
        r, stages = self.r, max(spec.stages) + 1
        if isinstance(r, dict):
            if spec.family not in r:
                raise UserError(f"method.r={r} names no rank for {spec.family}; add it: method.r.{spec.family}=8")
            r = r[spec.family]
        ranks = [r] * stages if isinstance(r, int) else list(r)
        if len(ranks) != stages:
            raise UserError(
                f"method.r={ranks} gives {len(ranks)} ranks, this {spec.family} has {stages} stages; "
                f"give one rank or {stages}"
            )
        return ranks

    def _fits(self, site: Site) -> None:
        height = site.d_out // 3 if site.role == "qkv" else site.d_out
        if height % self.m or site.d_in % self.m:
            raise UserError(
                f"method.m={self.m} does not divide the widths of {site.name}: d_in={site.d_in}, d_out={height}; "
                f"try method.m={divisors(site.d_in, height)}"
            )
