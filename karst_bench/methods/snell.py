"""SNELL: kernelised, sparse changes of every linear, of which few numbers are kept in memory [arXiv 2411.01124]."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from karst_bench.errors import UserError
from karst_bench.methods.base import AdaptedModel, Artefact, Method, ModelSpec
from karst_bench.nn.drop_path import DroppedBranch
from karst_bench.nn.kernel_delta import KernelDelta, RecomputedLinear
from karst_bench.nn.model_spec import Site

SITES = ("q", "k", "v", "proj", "fc1", "fc2")


@dataclass(kw_only=True)
class Snell(Method):
    """y = W0 x + b + dW x, dW_oi = D |D| where |D| is above its rho-quantile, else 0; D_oi = 0.1 (|q_o - p_i| - |q'_o - p'_i|)

    p, p', q and q' in R^(r/2) are trained, dW is computed from them and again in backward. rho = 0: dW = D, as in the
    published code. On q, k, v, proj, fc1 and fc2 of every block; the class token trains too. Dropout on the input, but not
    of proj; branch_drop: drop-path of the whole change. Trainable: r (d_in + d_out) a linear.
    """

    r: int
    rho: float
    dropout: float
    branch_drop: float

    identity_at_init: ClassVar[bool] = False  # the points are drawn; dW starts near 1e-6
    mixed: ClassVar[bool] = False
    scalars: ClassVar[int] = 0  # of a linear, beside its points

    def __post_init__(self) -> None:
        if self.r % 2:
            raise UserError(f"method.r={self.r} must be even: half of it goes to each of the kernel's two distances")

    def attach(self, model: AdaptedModel, artefact: Artefact | None) -> None:
        for site in model.sites(*SITES):
            update = KernelDelta(site.d_out, site.d_in, r=self.r, kept=self._kept(site), mixed=self.mixed)
            self._made(update)
            change = RecomputedLinear(update, dropout=0.0 if site.role == "proj" else self.dropout)
            model.branch(site, DroppedBranch(change, p=self.branch_drop), merge=DroppedBranch.delta)
        if model.spec.class_token:
            model.unfreeze("cls_token")

    def expected_params(self, spec: ModelSpec) -> int:
        points = sum(self.r * (site.d_in + site.d_out) + self.scalars for site in spec.having(*SITES))
        return points + (spec.embed_dim if spec.class_token else 0)

    def update_nonzeros(self, spec: ModelSpec) -> int:
        """The entries of dW that are kept, at the last epoch's share."""
        sites = spec.having(*SITES)
        kept = [Snell._kept(self, site) for site in sites]  # SNELLA starts from others
        return sum(site.d_in * site.d_out if n is None else n for site, n in zip(sites, kept, strict=True))

    def param_groups(self, named: list[tuple[str, nn.Parameter]]) -> list[dict[str, Any]]:
        """The class token is not decayed."""
        return [{"params": [p], "weight_decay": 0.0} for name, p in named if name == "cls_token"]

    def _kept(self, site: Site) -> int | None:
        """How many entries lie above the rho-quantile of all, interpolated as numpy and torch do."""
        size = site.d_in * site.d_out
        return size - 1 - int(self.rho * (size - 1)) if self.rho else None

    def _made(self, update: KernelDelta) -> None:
        """Told of every change that is attached."""
