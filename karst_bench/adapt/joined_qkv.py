"""One projection for q, k and v where timm keeps them, or their biases, apart: BEiT, EVA, Swin V2, DINOv3's kin.

Such attention multiplies by the weight itself and never calls the layer, so that whatever stood in its place would be passed
by. Joined, it is one linear layer that is called, with the same weight and bias.
"""

from typing import Any

import torch
from torch import Tensor, nn

SPLIT = ("q_proj", "k_proj", "v_proj")


def is_apart(attn: nn.Module) -> bool:
    """Whether q, k and v, or their biases, stand apart in this attention."""
    return getattr(attn, "q_bias", None) is not None or getattr(attn, "q_proj", None) is not None


class JoinedQKV(nn.Linear):
    """x -> [W_q; W_k; W_v] x + [b_q; b_k; b_v] of the attention's own parameters, a bias that is not there being 0.

    Shapes: weight (3 d, d), bias (3 d,) or None where no part has one.
    """

    def __init__(self, attn: Any) -> None:
        nn.Module.__init__(self)  # the weight is put together anew in each pass, not held
        self.apart = getattr(attn, "q_proj", None) is not None
        if self.apart:
            self.q, self.k, self.v = (getattr(attn, name) for name in SPLIT)
        else:
            self.projection = attn.qkv
            self.q_bias, self.v_bias = attn.q_bias, attn.v_bias
        weight = self.weight
        self.out_features, self.in_features = weight.shape
        # without rotation or normalisation, a bias of k adds the same to all logits of a query: softmax does not see it
        self.needs_k_bias = not type(attn).__module__.endswith(".beit")

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """(3 d, d)."""
        weight: Tensor = torch.cat([part.weight for part in (self.q, self.k, self.v)]) if self.apart else self.projection.weight
        return weight

    @property
    def bias(self) -> Tensor | None:  # type: ignore[override]
        """(3 d,), zeros where a part has none."""
        if not self.apart:
            return torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        parts = (self.q, self.k, self.v)
        if all(part.bias is None for part in parts):
            return None
        return torch.cat([part.weight.new_zeros(len(part.weight)) if part.bias is None else part.bias for part in parts])

    def emptied(self) -> dict[str, Any]:
        """{attribute of the attention: None} of all that is held here instead."""
        return dict.fromkeys(SPLIT if self.apart else ("q_bias", "v_bias"))

    def filled(self, weight: Tensor, bias: Tensor | None) -> dict[str, Any]:
        """{attribute: plain layer or parameter} that the attention had before, with these values."""
        biases = (None,) * 3 if bias is None else tuple(bias.chunk(3))
        if not self.apart:
            layer = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
            layer.weight = nn.Parameter(weight, requires_grad=False)
            q, _, v = (nn.Parameter(part.clone(), requires_grad=False) for part in biases if part is not None)
            return {"qkv": layer, "q_bias": q, "v_bias": v}
        found: dict[str, Any] = {"qkv": None}
        for name, own, rows, values in zip(SPLIT, (self.q, self.k, self.v), weight.chunk(3), biases, strict=True):
            layer = nn.Linear(own.in_features, own.out_features, bias=own.bias is not None, device="meta")
            layer.weight = nn.Parameter(rows.clone(), requires_grad=False)
            if own.bias is not None and values is not None:
                layer.bias = nn.Parameter(values.clone(), requires_grad=False)
            found[name] = layer
        return found

    def missing_bias(self) -> str:
        """Which of q, k and v have no place for a bias, though one there would matter; "" where none is missing."""
        has = [part.bias is not None for part in (self.q, self.k, self.v)] if self.apart else [True, not self.needs_k_bias, True]
        return ", ".join(c for c, own in zip("qkv", has, strict=True) if not own)
