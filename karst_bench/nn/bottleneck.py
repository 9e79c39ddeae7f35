"""The bottleneck of the adapter family."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from karst_bench.nn.drop_path import drop_path


class QuickGELU(nn.Module):
    """z * sigmoid(1.702 z), CLIP's approximation of GELU."""

    def forward(self, z: Tensor) -> Tensor:
        return z * torch.sigmoid(1.702 * z)


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "quick_gelu": QuickGELU}


class Bottleneck(nn.Module):
    """x -> s * (W_u drop(act(W_d x + b_d)) + b_u)

    Shapes: W_d (h, d), W_u (d, h). Trainable: 2 d h + h + d. Init: `near_identity` W_d Kaiming-uniform(sqrt 5), W_u = 0,
    biases 0 (the output starts at 0); `trunc_normal` both weights 0.02 (NOAH's code; the start is perturbed);
    `houlsby` both weights 0.01, cut at two deviations (Houlsby et al.; the start is barely perturbed).
    """

    def __init__(self, d: int, *, h: int, s: float, act: str, dropout: float, init: str = "near_identity") -> None:
        super().__init__()
        self.s = s
        self.down = nn.Linear(d, h)
        self.act = ACTIVATIONS[act]()
        self.drop = nn.Dropout(dropout)
        self.up = nn.Linear(h, d)
        nn.init.zeros_(self.down.bias)
        nn.init.zeros_(self.up.bias)
        if init == "near_identity":
            nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
            nn.init.zeros_(self.up.weight)
        elif init == "trunc_normal":
            nn.init.trunc_normal_(self.down.weight, std=0.02)
            nn.init.trunc_normal_(self.up.weight, std=0.02)
        elif init == "houlsby":
            nn.init.trunc_normal_(self.down.weight, std=0.01, a=-0.02, b=0.02)
            nn.init.trunc_normal_(self.up.weight, std=0.01, a=-0.02, b=0.02)
        else:
            raise ValueError(f"init={init!r} is unknown; use near_identity, trunc_normal or houlsby")

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.up(self.drop(self.act(self.down(x))))
        return self.s * y


class ScaledBottleneck(Bottleneck):
    """x -> g * DropPath(W_u drop(act(W_d x + b_d)) + b_u), a gain for each channel. Trainable: 2 d h + h + 2 d; g starts at 1.

    drop_path: the rate at which an image loses the bottleneck's output in training.
    """

    def __init__(self, d: int, *, h: int, act: str, dropout: float, init: str, drop_path: float) -> None:
        super().__init__(d, h=h, s=1.0, act=act, dropout=dropout, init=init)
        self.drop_path = drop_path
        self.gain = nn.Parameter(torch.ones(d))

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return self.gain * (drop_path(y, self.drop_path) if self.training and self.drop_path else y)
