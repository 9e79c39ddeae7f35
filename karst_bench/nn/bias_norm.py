"""A LayerNorm of which only the bias trains."""

from typing import Self

import torch.nn.functional as F
from torch import Tensor, nn


class BiasTrainedNorm(nn.LayerNorm):
    """y = (x - mean) / std * w + b with w fixed, the bias added as an operation of its own on any device but a CPU.

    torch's CUDA backward of a norm gives no gradient of the bias where the weight wants none and rows are few (seen on
    Swin-B at batch 64: "NativeLayerNormBackward0 returned an invalid gradient at index 2").
    """

    @classmethod
    def of(cls, norm: nn.LayerNorm) -> Self:
        """The same norm around the same parameters."""
        new = cls(norm.normalized_shape, eps=norm.eps, device="meta")
        new.weight, new.bias = norm.weight, norm.bias
        return new.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu":
            return super().forward(x)
        return F.layer_norm(x, self.normalized_shape, self.weight, None, self.eps) + self.bias
