"""A norm that keeps a bf16 input instead of its wide copy, against torch's own."""

import pytest
import torch
import torch.nn.functional as F

from karst_bench.nn.narrow_norm import NormOfNarrow


@pytest.mark.parametrize("trained", [(True, True), (False, True), (False, False)])
def test_values_and_gradients_are_those_of_the_wide_copy_bit_by_bit(trained):
    torch.manual_seed(0)
    x = torch.randn(3, 5, 16).bfloat16().requires_grad_()
    weight, bias = (torch.randn(16, requires_grad=needed) for needed in trained)
    dy = torch.randn(3, 5, 16)
    wanted = [t for t in (x, weight, bias) if t.requires_grad]
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = NormOfNarrow.apply(x, weight, bias, (16,), 1e-6)
    expected = F.layer_norm(x.float(), (16,), weight, bias, 1e-6)
    assert torch.equal(y, expected)
    for ours, theirs in zip(torch.autograd.grad(y, wanted, dy), torch.autograd.grad(expected, wanted, dy), strict=True):
        assert ours.dtype == theirs.dtype and torch.equal(ours, theirs)
    assert not [t for t in kept if t.dtype == torch.float32 and t.numel() == x.numel()]
