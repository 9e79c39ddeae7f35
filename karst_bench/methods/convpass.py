"""Convpass: convolutional bypasses of attention and MLP [arXiv 2207.07039]."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from karst_bench.errors import UserError
from karst_bench.methods.base import AdaptedModel, Artefact, Method, ModelSpec
from karst_bench.nn.bottleneck import QuickGELU
from karst_bench.nn.token_grid import over_patches

INITS = ("identity", "xavier")


class Bypass(nn.Module):
    """x -> s W_u drop(g(Conv(g(W_d x)))), g = QuickGELU; the class token is an image of one pixel to the convolution.

    Shapes: W_d (h, d), Conv 3 x 3 from h to h, W_u (d, h), each with a bias; x (B, T, d) or (B, H, W, d). Init: W_d
    Xavier-uniform, Conv the identity or (init) Xavier-uniform, W_u = 0, so the output starts at 0.
    """

    def __init__(
        self, d: int, *, h: int, s: float, dropout: float, init: str, prefix: int, grid: Callable[[], tuple[int, int]]
    ) -> None:  # fmt: skip
        super().__init__()
        self.s, self.prefix, self.grid = s, prefix, grid
        self.down, self.conv, self.up = nn.Linear(d, h), nn.Conv2d(h, h, 3, padding=1), nn.Linear(h, d)
        self.act, self.drop = QuickGELU(), nn.Dropout(dropout)
        nn.init.xavier_uniform_(self.down.weight)
        if init == "xavier":
            nn.init.xavier_uniform_(self.conv.weight)
        else:
            nn.init.zeros_(self.conv.weight)
            with torch.no_grad():
                self.conv.weight[:, :, 1, 1] = torch.eye(h)
        nn.init.zeros_(self.up.weight)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        z = over_patches(self.act(self.down(x)), self.conv, self.conv, prefix=self.prefix, grid=self.grid)
        y: Tensor = self.up(self.drop(self.act(z)))
        return self.s * y


@dataclass(kw_only=True)
class Convpass(Method):
    """x <- x + DropPath(MHSA(LN x)) + DropPath'(s Bypass(LN x)),  the same beside the MLP  [Convpass, arXiv 2207.07039]

    Both drop-paths have the block's rate and draw apart. Shapes: as Bypass. Trainable for each bypass: 2 d h + h + d + 9 h^2
    + h; two a block.
    """

    needs_grid: ClassVar[bool] = True
    h: int
    s: float
    dropout: float
    init: str

    def __post_init__(self) -> None:
        if self.init not in INITS:
            raise UserError(f"method.init={self.init!r} is unknown for Convpass; use one of {', '.join(INITS)}")

    def attach(self, model: AdaptedModel, artefact: Artefact | None) -> None:
        spec = model.spec
        for block, width in enumerate(spec.widths):
            for half in ("attn", "mlp"):
                bypass = Bypass(width, h=self.h, s=self.s, dropout=self.dropout, init=self.init,
                                prefix=spec.prefix_tokens, grid=model.grid(block))  # fmt: skip
                model.residual(block, half, bypass, reads="norm", position="own_drop_path")

    def expected_params(self, spec: ModelSpec) -> int:
        h = self.h
        return 2 * sum(2 * d * h + h + d + 9 * h**2 + h for d in spec.widths)
