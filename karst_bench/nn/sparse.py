"""Changes of single entries of a weight."""

import torch
from torch import Tensor, nn

from karst_bench.nn.weight_delta import WeightDelta


class SparseEntries(WeightDelta):
    """dW[i] = v[i] at K chosen entries, 0 elsewhere                              [SPT, arXiv 2303.08566, Eq. 5]

    Shapes: index (K,) into the flattened (d_out, d_in), v (K,). Trainable: K. Init: v = 0, so dW = 0.
    """

    index: Tensor

    def __init__(self, d_out: int, d_in: int, *, index: Tensor) -> None:
        super().__init__()
        self.shape = (d_out, d_in)
        self.register_buffer("index", index.long(), persistent=False)
        self.v = nn.Parameter(torch.zeros(len(index)))

    def delta(self, W0: Tensor) -> Tensor:
        d_out, d_in = self.shape
        return self.v.new_zeros(d_out * d_in).index_copy(0, self.index, self.v).view(d_out, d_in)

    def extra_repr(self) -> str:
        return f"{len(self.index)} of {self.shape[0]} x {self.shape[1]}"
