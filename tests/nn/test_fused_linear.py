"""The fused linear layer against autograd through the written equation."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from karst_bench.adapt.linear_forms import COSTS, Form, composed_affine, form_of, linear_with_deltas
from karst_bench.nn.affine import Affine
from karst_bench.nn.fused_linear import LinearForm, fused_linear
from karst_bench.nn.kronecker import KroneckerSum
from karst_bench.nn.lowrank import LowRankProduct
from karst_bench.nn.recompute import InputSource, Recompute
from karst_bench.nn.weight_delta import DenseDelta, WeightDelta
from karst_bench.nn.wide_linear import wide_linear

FORMS = [Form(merge, dense) for merge in (True, False) for dense in (True, False)]
FORMS += [Form(True, dense, wide=True) for dense in (True, False)]


class DenseChange(WeightDelta):
    def __init__(self, d_out, d_in):
        super().__init__()
        self.D = torch.nn.Parameter(torch.zeros(d_out, d_in))

    def delta(self, W0):
        return self.D


def filled(module, scale=0.3):
    for p in module.parameters():
        torch.nn.init.normal_(p, std=scale)
    return module


def case(kind, *, N=2, m=2, r=3, chunks=1, rows=None, gain=True, bias=True, seed=0):
    """(x, linear, change, rows, affines) in float64, every value drawn."""
    torch.manual_seed(seed)
    d_in, d_out = 4 * m, 6 * m * chunks
    height = d_out if rows is None else rows[1] - rows[0]
    if kind == "kron":
        update = KroneckerSum(height, d_in, N=N, m=m, r=r, sigma=0.7, init="gaussian", chunks=chunks)
    elif kind == "lowrank":
        update = LowRankProduct(height, d_in, r=r, s=1.3)
    else:
        update = DenseChange(height, d_in)
    linear = torch.nn.Linear(d_in, d_out, bias=bias).requires_grad_(False)
    affines = []
    if gain:
        scale, shift = (torch.nn.Parameter(0.2 * torch.randn(d_out)) for _ in range(2))
        affines = [Affine(scale, shift, centre=1.0), Affine(torch.nn.Parameter(torch.randn(1)), None, centre=2.0)]
    parts = torch.nn.ModuleList([linear, filled(update), *affines]).double()
    return torch.randn(3, 5, d_in, dtype=torch.float64, requires_grad=True), *parts[:2], rows, list(parts[2:])


def oracle(x, linear, update, rows, affines):
    rows = rows or (0, linear.out_features)
    dW = F.pad(update.delta(linear.weight[slice(*rows)]), (0, 0, rows[0], linear.out_features - rows[1]))
    y = F.linear(x, linear.weight + dW, linear.bias)
    for affine in affines:
        y = affine(y)
    return y


def fast(x, linear, update, rows, affines, form, recompute=None, *, recompute_weight=False, dtype=None):
    factors = update.factors(linear.weight)
    dense = form.dense or (form.wide and isinstance(factors, DenseDelta))
    plan = LinearForm((type(factors),), (rows,), form.merge, dense, dtype or x.dtype, recompute, recompute_weight)
    compute = wide_linear if form.wide else fused_linear
    return compute(plan, x, linear.weight, linear.bias, *composed_affine(affines, linear.out_features), [factors])


def trained(x, linear, update, affines):
    own = [p for p in linear.parameters() if p.requires_grad]
    return [x, *own, *update.parameters(), *(p for a in affines for p in a.parameters())]


def agree(args, form, tolerance=1e-10):
    x, linear, update, _, affines = args
    wanted = trained(x, linear, update, affines)
    y, expected = fast(*args, form), oracle(*args)
    dy = torch.randn_like(expected)
    grads, oracles = torch.autograd.grad(y, wanted, dy), torch.autograd.grad(expected, wanted, dy)
    torch.testing.assert_close(y, expected, rtol=tolerance, atol=tolerance)
    for grad, other in zip(grads, oracles, strict=True):
        torch.testing.assert_close(grad, other, rtol=tolerance, atol=tolerance)


@given(
    kind=st.sampled_from(["kron", "lowrank", "dense"]), N=st.integers(1, 3), m=st.sampled_from([1, 2, 4]),
    r=st.integers(1, 4), chunks=st.sampled_from([1, 3]), form=st.sampled_from(FORMS), gain=st.booleans(),
    bias=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=30, deadline=None, derandomize=True)
def test_gradients_equal_the_oracle(kind, N, m, r, chunks, form, gain, bias, seed):
    agree(case(kind, N=N, m=m, r=r, chunks=chunks, gain=gain, bias=bias, seed=seed), form)


@given(
    kind=st.sampled_from(["kron", "lowrank", "dense"]), start=st.sampled_from([0, 1, 2]), form=st.sampled_from(FORMS),
    gain=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=12, deadline=None, derandomize=True)
def test_gradients_equal_the_oracle_on_rows(kind, start, form, gain, seed):
    args = list(case(kind, rows=(0, 12), gain=gain, seed=seed))
    wide = torch.nn.Linear(8, 36).double().requires_grad_(False)
    args[1], args[3] = wide, (12 * start, 12 * start + 12)
    if gain:
        args[4] = [Affine(torch.nn.Parameter(torch.randn(36).double()), None, centre=1.0)]
    agree(args, form)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("gain", "offset"), [(0.0, 0.3), (1e-9, 0.0), (0.5, 40.0)])
def test_scale_gradient_where_the_gain_cannot_be_divided_out(form, gain, offset):
    args = case("kron")
    affine = args[4][0]
    with torch.no_grad():
        affine.scale[2] = gain - 1.0
        affine.shift[2] = offset
    agree(args, form)


@pytest.mark.parametrize("form", FORMS)
def test_weight_and_bias_that_train_beside_the_change(form):
    args = case("kron", chunks=3)
    args[1].requires_grad_(True)
    agree(args, form)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["kron", "lowrank"])
def test_partly_frozen_change(form, kind):
    args = case(kind)
    x, linear, update, _, affines = args
    frozen = next(iter(update.parameters())).requires_grad_(False)
    wanted = [p for p in trained(x, linear, update, affines) if p is not frozen]
    grads = torch.autograd.grad(fast(*args, form).sum(), wanted)
    for grad, other in zip(grads, torch.autograd.grad(oracle(*args).sum(), wanted), strict=True):
        torch.testing.assert_close(grad, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("form", FORMS)
def test_input_without_gradient_and_frozen_change(form):
    x, linear, update, rows, affines = case("kron")
    agree((x, linear, update, rows, affines), form)
    fixed = x.detach()
    grads = torch.autograd.grad(fast(fixed, linear, update, rows, affines, form).sum(), list(update.parameters()))
    others = torch.autograd.grad(oracle(fixed, linear, update, rows, affines).sum(), list(update.parameters()))
    for grad, other in zip(grads, others, strict=True):
        torch.testing.assert_close(grad, other, rtol=1e-10, atol=1e-10)
    update.requires_grad_(False)
    (dx,) = torch.autograd.grad(fast(x, linear, update, rows, [], form).sum(), [x])
    (expected,) = torch.autograd.grad(oracle(x, linear, update, rows, []).sum(), [x])
    torch.testing.assert_close(dx, expected, rtol=1e-10, atol=1e-10)


def test_double_use_sharing_and_accumulation():
    x, linear, update, _, affines = case("kron", seed=3)
    twin = KroneckerSum(12, 8, N=2, m=2, r=3, sigma=0.7, init="gaussian", C=update.C).double()
    filled(torch.nn.ParameterList([twin.A, twin.B]))
    wanted = [*update.parameters(), twin.A, twin.B]

    def passes(step):
        for _ in range(2):  # two backward passes into one gradient, each using the layer twice
            y = step(x, linear, update, None, affines) + step(x.flip(0), linear, update, None, [])
            (y + step(x, linear, twin, None, [])).square().sum().backward()
        grads = [p.grad for p in wanted]
        for p in wanted:
            p.grad = None
        return grads

    expected = passes(oracle)
    for form in FORMS:
        for grad, other in zip(passes(lambda *a, form=form: fast(*a, form)), expected, strict=True):
            torch.testing.assert_close(grad, other, rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["kron", "lowrank"])
def test_bf16_autocast_within_rounding(form, kind):
    x, linear, update, rows, affines = case(kind, m=8, r=4, seed=5)
    wanted = trained(x, linear, update, affines)
    y = oracle(x, linear, update, rows, affines)
    dy = torch.randn_like(y)
    exact = torch.autograd.grad(y, wanted, dy)
    parts = torch.nn.ModuleList([linear, update, *affines]).float()
    x32 = x.detach().float().requires_grad_(True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = fast(x32, linear, update, rows, affines, form, dtype=torch.bfloat16)
    assert out.dtype is torch.bfloat16
    grads = torch.autograd.grad(out, trained(x32, parts[0], parts[1], affines), dy.bfloat16())
    assert {grad.dtype for grad in grads} == {torch.float32}
    for grad, other in zip(grads, exact, strict=True):
        error = (grad.double() - other).norm() / other.norm()
        assert error < 0.02, error  # bf16 keeps 8 bits: 0.4 % a product, a few of them in a row


def test_update_below_bf16_resolution_survives():
    linear = torch.nn.Linear(64, 64, bias=False).requires_grad_(False)
    update = filled(LowRankProduct(64, 64, r=4, s=1.0), 0.01)
    x = torch.randn(256, 64)
    moved = x @ update.delta(linear.weight).T.detach()
    stored = torch.nn.Linear(64, 64, bias=False).requires_grad_(False)
    stored.weight.data = linear.weight.bfloat16()
    with torch.no_grad():
        y = linear_with_deltas(x.bfloat16(), stored, stored.bias, [(update.factors(stored.weight), None)], [])
        base = x.bfloat16() @ stored.weight.T
    slope = ((y - base).float() * moved).sum() / moved.square().sum()
    assert 0.9 < slope < 1.1  # merged onto the bf16 weight, most of it would be gone


@pytest.mark.parametrize("form", [Form(False, False), Form(True, False, wide=True)])
def test_backward_keeps_nothing_but_the_source(form):
    x, linear, update, _, _ = case("kron", gain=False)
    source = torch.randn_like(x).requires_grad_(True)
    activated = F.gelu(source)
    recompute = Recompute(F.gelu, (source.detach(),))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = fast(activated, linear, update, None, [], form, recompute)
    assert source.data_ptr() in {t.data_ptr() for t in kept}
    assert activated.data_ptr() not in {t.data_ptr() for t in kept}
    wanted = [source, *update.parameters()]
    expected = torch.autograd.grad(oracle(F.gelu(source), linear, update, None, []).sum(), wanted)
    for grad, other in zip(torch.autograd.grad(y.sum(), wanted), expected, strict=True):
        torch.testing.assert_close(grad, other, rtol=1e-10, atol=1e-10)


def test_a_source_answers_for_the_recorded_tensor_once():
    source, x = InputSource(), torch.randn(3)
    y = F.gelu(x)
    source.record(y, F.gelu, x)
    assert source.take(y.clone()) is None, "another tensor, though an equal one"
    assert source.take(y) is None, "nothing is held for a second call"
    source.record(y, F.gelu, x)
    recompute = source.take(y)
    assert torch.equal(recompute.redo(*recompute.sources), y)


def test_several_changes_on_rows_of_one_layer_and_a_recomputed_output():
    """q and v of a fused projection, and what the gain scales made again in backward: one pair U, V for all changes."""
    torch.manual_seed(2)
    base = torch.nn.Linear(8, 36).double().requires_grad_(False)
    changes = [filled(LowRankProduct(12, 8, r=r, s=1.3)).double() for r in (2, 3)]
    affine = Affine(*(torch.nn.Parameter(torch.randn(36, dtype=torch.float64)) for _ in range(2)), centre=1.0)
    x = torch.randn(7, 8, dtype=torch.float64, requires_grad=True)
    placed = [(change.factors(base.weight), rows) for change, rows in zip(changes, [(0, 12), (24, 36)], strict=True)]
    dW = torch.cat([changes[0].delta(None), torch.zeros(12, 8, dtype=torch.float64), changes[1].delta(None)])
    expected = affine(F.linear(x, base.weight + dW, base.bias))
    wanted, dy = [x, *changes[0].parameters(), *changes[1].parameters(), *affine.parameters()], torch.randn_like(expected)
    exact = torch.autograd.grad(expected, wanted, dy)
    for recompute_weight in (False, True):
        y = linear_with_deltas(x, base, base.bias, placed, [affine], recompute_weight=recompute_weight, costs=COSTS["cuda"])
        torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)
        for grad, other in zip(torch.autograd.grad(y, wanted, dy, retain_graph=True), exact, strict=True):
            torch.testing.assert_close(grad, other, rtol=1e-10, atol=1e-10)


def test_forms_follow_the_operation_count():
    kron, cpu = (3072, 16, 8), COSTS["cpu"]
    assert form_of(cpu, 788, 3072, 768, (kron,)) == Form(True, False)  # wide layer: rank path
    assert form_of(cpu, 100, 3072, 768, (kron,)) == Form(False, False)  # few tokens: nothing is built
    assert form_of(cpu, 1088, 96, 96, ((96, 16, 8),)) == Form(True, True)  # narrow layer: the dense gradient is cheaper
    assert form_of(cpu, 788, 768, 768, ()) == Form(False, False)


def test_forms_of_a_gpu_are_plain_products():
    cuda = COSTS["cuda"]
    assert form_of(cuda, 12608, 3072, 768, ((3072, 16, 8),)) == Form(True, False, wide=True)
    assert form_of(cuda, 12608, 2304, 768, ((768, 256, 0), (768, 256, 0))).dense  # VeRA: wider than its layer is cheap
    assert form_of(cuda, 1088, 96, 96, ((96, 16, 8),)).dense  # R' = 128 > 96
    assert form_of(cuda, 1088, 96, 96, ((96, 0, 0),)).dense  # a change given as dW itself
    assert not form_of(cuda, 1088, 96, 96, ()).dense
