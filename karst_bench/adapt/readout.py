"""What a head reads instead of what timm pools."""

from collections.abc import Callable

from torch import Tensor, nn


class Readout(nn.Module):
    """Pools tokens before the final norm: h -> norm(pool(h)), handed on as one token so that the head stays timm's.

    tokens: how many the head reads, which all get it (2 where it was distilled). Shapes: ViT (B, T, d) -> (B, tokens, d); Swin
    (B, H, W, d) -> (B, 1, 1, d). pool None: the model's own pooling, of norm(h), for any shape.
    """

    def __init__(
        self, base: nn.Module, pool: Callable[[Tensor], Tensor] | None, norm: nn.Module | None, *, tokens: int = 1
    ) -> None:  # fmt: skip
        super().__init__()
        self.base = base
        self.pool = pool
        self.norm = norm
        self.tokens = tokens

    def forward(self, h: Tensor) -> Tensor:
        norm = self.base if self.norm is None else self.norm
        if self.pool is None:
            y: Tensor = norm(h)
            return y
        pooled: Tensor = norm(self.pool(h))
        one = pooled.view(pooled.shape[0], *[1] * (h.ndim - 2), pooled.shape[-1])
        return one if self.tokens == 1 else one.expand(-1, self.tokens, -1)


class FirstToken(nn.Module):
    """Stands where the model pools by attention, behind a Readout: (B, 1, d) -> (B, d)."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def forward(self, h: Tensor) -> Tensor:
        return h[:, 0]


class ClassToken(nn.Module):
    """The first token: (B, T, d) -> (B, d)."""

    def forward(self, h: Tensor) -> Tensor:
        return h[:, 0]


class MeanPatch(nn.Module):
    """The mean over patches: (B, prefix + n, d) or (B, H, W, d) -> (B, d)."""

    def __init__(self, prefix: int) -> None:
        super().__init__()
        self.prefix = prefix

    def forward(self, h: Tensor) -> Tensor:
        return h[:, self.prefix :].mean(1) if h.ndim == 3 else h.mean((1, 2))
