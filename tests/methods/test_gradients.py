"""The gradients of every method, in the forms of both devices, against autograd through the weight that its equation builds."""

from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from karst_bench.adapt import linear_forms
from karst_bench.adapt.layers import AdaptedLayer
from karst_bench.config.option_files import options

METHODS = [name for name in options("method") if name != "none"]
DEVICES = ("cpu", "cuda")


def by_its_equation(self, x):
    """after((W0 + sum dW) before(x) + b + sum db + sum branch(...)), one thing after the other, every tensor kept."""
    for part in self.before:
        x = part(x)
    if isinstance(self.base, nn.Linear):
        weight, bias = self.base.weight, self.bias()
        for update, rows in zip(self.deltas, self.delta_rows, strict=True):
            own = slice(*(rows or (0, len(weight))))
            changed = weight.clone()
            changed[own] = changed[own] + update.delta(self.base.weight[own])
            weight = changed
        y = F.linear(x, weight, bias)
    else:
        y = self.base(x)
    for fn, rows, reads in zip(self.branches, self.branch_rows, self.branch_reads, strict=True):
        if rows is None:
            y = y + fn(x if reads == "input" else y)
        else:
            own = slice(*rows)
            y = torch.cat([y[..., : own.start], y[..., own] + fn(x if reads == "input" else y[..., own]), y[..., own.stop :]], -1)
    for affine in self.after:
        y = affine(y, 1 if isinstance(self.base, nn.Conv2d) else -1)
    return y


def gradients(case, x, *, device=None):
    """Of everything that trains; device: whose forms are taken, None: the equation."""
    trained = [p for p in case.net.parameters() if p.requires_grad]
    torch.manual_seed(7)
    forms = patch.object(linear_forms, "costs_of", lambda _: linear_forms.COSTS[device])
    with patch.object(AdaptedLayer, "_adapted", by_its_equation) if device is None else forms:
        loss = F.cross_entropy(case.net.train()(x), torch.arange(len(x)) % 5)
    return torch.autograd.grad(loss, trained, allow_unused=True)


def whole(grads):
    return torch.cat([g.flatten().double() for g in grads if g is not None])


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("family", ["vit", "swin"])
def test_gradients_of_every_method_are_the_equation_s(on_each, images, shake, family, name):
    """In float64 to 1e-10 of each, and under bf16 autocast no further from it than the equation's own rounding takes it."""
    case = shake(on_each(family, name))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = {device: whole(gradients(case, images, device=device)) for device in (None, *DEVICES)}
    case.net.double()
    expected = gradients(case, images.double())
    exact = whole(expected)
    for device in DEVICES:
        for ours, theirs in zip(gradients(case, images.double(), device=device), expected, strict=True):
            assert (ours is None) == (theirs is None)
            if ours is not None:
                assert (ours - theirs).norm() <= 1e-10 * theirs.norm() + 1e-13 * exact.norm()
    error = {device: float((grads - exact).norm() / exact.norm()) for device, grads in rounded.items()}
    assert max(error[device] for device in DEVICES) <= 1.5 * error[None] + 0.01, error
