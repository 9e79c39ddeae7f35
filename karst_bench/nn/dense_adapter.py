"""Sparse-Tuning's adapter, a bottleneck within a bottleneck."""

import torch
from torch import Tensor, nn


class DenseAdapter(nn.Module):
    """h0 = relu(D1 x), u = D2 h0, v = U1 u, x -> U2 (D3 [u; v] + h0)                         [Sparse-Tuning, arXiv 2405.14700]

    Shapes: D1 (h, d), D2 (m, h), U1 (h, m), D3 (h, m + h), U2 (d, h), all biased. Trainable: (d + 1) h + (h + 1) m + (m + 1)
    h + (m + h + 1) h + (h + 1) d. Init: `near_identity` D Kaiming-uniform(sqrt 5), U and biases 0 (the output starts at 0);
    `trunc_normal` all weights 0.02, biases 0, which its code amounts to (the start is perturbed).
    """

    def __init__(self, d: int, *, h: int, m: int, init: str) -> None:
        super().__init__()
        self.D1, self.D2, self.U1 = nn.Linear(d, h), nn.Linear(h, m), nn.Linear(m, h)
        self.D3, self.U2 = nn.Linear(m + h, h), nn.Linear(h, d)
        for layer in (self.D1, self.D2, self.U1, self.D3, self.U2):
            nn.init.zeros_(layer.bias)
            if init == "trunc_normal":
                nn.init.trunc_normal_(layer.weight, std=0.02)
        if init == "near_identity":
            nn.init.zeros_(self.U1.weight)
            nn.init.zeros_(self.U2.weight)

    def forward(self, x: Tensor) -> Tensor:
        h0 = self.D1(x).relu()
        u = self.D2(h0)
        y: Tensor = self.U2(self.D3(torch.cat([u, self.U1(u)], dim=-1)) + h0)
        return y
