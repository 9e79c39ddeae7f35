"""SNELL and SNELLA against their equations, written with loops, and the budgets that layers compete for."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from karst_bench.engine.repeatable import deterministic_algorithms
from karst_bench.methods.snella import allocate, budget
from karst_bench.nn.kernel_delta import KernelDelta, PointKernel, RecomputedLinear, RecomputedProduct
from karst_bench.nn.order_statistic import by_digits, nth_smallest


def dense(update):
    """D of the equation in float64, entry by entry."""
    P, Q = update.P.double(), update.Q.double()
    rows = []
    for o in range(Q.shape[1]):
        rows.append(torch.stack([0.1 * ((Q[0, o] - P[0, i]).square().sum().sqrt() - (Q[1, o] - P[1, i]).square().sum().sqrt())
                                 for i in range(P.shape[1])]))  # fmt: skip
    K = torch.stack(rows)
    if not update.mixed:
        return K
    e = (K / update.gamma.double()).exp()
    return K + update.alpha.double() * e / e.sum(0) + update.beta.double()


def make(mixed, kept):
    torch.manual_seed(1)
    update = KernelDelta(7, 6, r=8, kept=kept, mixed=mixed)
    with torch.no_grad():
        for p in update.parameters():
            p.add_(torch.randn(p.shape))
    return update


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("kept", [None, 0, 13, 42])
def test_value_and_gradient(mixed, kept):
    """The value is D |D| among the `kept` largest, the gradient that of g D with g a constant."""
    update = make(mixed, kept)
    D = dense(update)
    g = torch.ones_like(D)
    if kept is not None:
        sizes = D.detach().abs()
        g = sizes * (sizes > (sizes.flatten().sort(descending=True).values[kept] if kept < 42 else -1))
    expected, weights = D * g, torch.randn(7, 6)
    got = update.delta(torch.zeros(7, 6))
    assert torch.allclose(got.double(), expected, atol=1e-5)
    assert kept is None or int(got.detach().count_nonzero()) == kept
    ours = torch.autograd.grad((got * weights).sum(), list(update.parameters()), allow_unused=True)
    theirs = torch.autograd.grad((expected * weights.double()).sum(), list(update.parameters()), allow_unused=True)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b.to(a.dtype), atol=1e-4)


def test_rho_is_a_quantile(attached):
    """As many entries change as lie above torch's own quantile."""
    case = attached("vit", "method=snell", "method.rho=0.73", "method.r=4")
    update = case.model.layers["blocks.0.mlp.fc1"].branches[0].fn.update
    D = dense(update).float().abs()
    assert update.kept.item() == int(D.gt(torch.quantile(D, 0.73)).sum())


def test_backward_keeps_no_dense_matrix():
    """What autograd saves of a layer's change is the input and the points; gradients are those of the plain product."""
    update = make(mixed=True, kept=20)
    layer, x = RecomputedLinear(update, dropout=0.0), torch.randn(3, 6, requires_grad=True)
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
        y = layer(x)
    assert max(sizes, default=0) < 42
    found = torch.autograd.grad(y.square().sum(), [x, update.P, update.Q])
    plain = torch.autograd.grad((x @ update.delta(x).T).square().sum(), [x, update.P, update.Q])
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, plain, strict=True))


@pytest.mark.parametrize("kept", [None, 20])
def test_the_product_of_a_gpu_has_the_gradients_of_autograd(kept):
    """Its own backward, which makes dW again and nothing else, in float64; beta's is left out by a change that has none."""
    update = make(mixed=True, kept=kept).double()
    x, dy = torch.randn(2, 3, 6, dtype=torch.float64, requires_grad=True), torch.randn(2, 3, 7, dtype=torch.float64)
    update.beta.requires_grad_(False)
    wanted = [x, *(p for p in update.parameters() if p.requires_grad)]
    y = RecomputedProduct.apply(x, update, *update.parameters())
    expected = x @ update.delta(x).T
    assert torch.allclose(y, expected, atol=1e-12)
    for a, b in zip(torch.autograd.grad(y, wanted, dy), torch.autograd.grad(expected, wanted, dy), strict=True):
        assert torch.allclose(a, b, atol=1e-10)


def test_the_threshold_is_the_one_that_sorting_finds():
    """By bits as on a GPU and by selection, among many equal entries, zeros, the smallest and the largest numbers."""
    torch.manual_seed(0)
    tiny, huge = torch.rand(99) * 1e-40, torch.rand(100).exp() * 1e30
    drawn = torch.cat([torch.rand(300), huge, torch.full((50,), 0.25), torch.zeros(40), tiny])
    values = drawn[torch.randperm(len(drawn))].view(19, -1)
    in_order = values.flatten().sort().values
    for n in (0, 1, 2, 40, 41, 140, 141, 201, 334, 401, 588, 589):
        for find in (by_digits, nth_smallest):
            found = find(values.flatten(), torch.tensor([n]))
            assert torch.equal(found, in_order[n - 1 : n] if n else torch.zeros(1)), (n, find)


def test_counting_digits_leaves_a_step_repeatable(monkeypatch):
    """torch refuses a GPU's histogram where steps are to repeat themselves; of whole numbers it is the same each time."""
    histc, enabled = torch.histc, torch.are_deterministic_algorithms_enabled

    def refusing(*args):
        if enabled():
            raise RuntimeError("_histc_cuda does not have a deterministic implementation")
        return histc(*args)

    monkeypatch.setattr(torch, "histc", refusing)
    values = torch.rand(300, generator=torch.Generator().manual_seed(0))
    with deterministic_algorithms():
        assert torch.equal(by_digits(values, torch.tensor([7])), values.sort().values[6:7])
        assert enabled()
    found = torch.compile(by_digits, backend="aot_eager", fullgraph=True)(values, torch.tensor([7]))
    assert torch.equal(found, values.sort().values[6:7])


@pytest.mark.gpu
def test_the_threshold_of_a_gpu_is_the_one_that_sorting_finds():
    values = torch.rand(768, 768, device="cuda").log().abs()
    with deterministic_algorithms():
        for n in (0, 1, 1000, 300_000, values.numel()):
            found = nth_smallest(values, torch.tensor(n, device="cuda"))
            assert torch.equal(found, values.flatten().sort().values[n - 1 : n] if n else torch.zeros(1, device="cuda"))


def test_the_kernel_of_a_gpu_is_that_of_a_cpu():
    """Values and gradients in float64; two points that are one have a distance of 0 without a gradient."""
    torch.manual_seed(0)
    P, Q = (torch.randn(2, d, 3, dtype=torch.float64, requires_grad=True) for d in (30, 40))
    with torch.no_grad():
        Q[0, 4] = P[0, 7]
    distance, weights = torch.cdist(P, Q, compute_mode="donot_use_mm_for_euclid_dist"), torch.randn(30, 40, dtype=torch.float64)
    weights[7, 4] = 0.0  # of which rounding makes about 1e-8
    expected = 0.1 * (distance[0] - distance[1])
    got = PointKernel.apply(P, Q)
    assert torch.allclose(got, expected, atol=1e-8)
    for ours, theirs in zip(torch.autograd.grad((got * weights).sum(), [P, Q]),
                            torch.autograd.grad((expected * weights).sum(), [P, Q]), strict=True):  # fmt: skip
        assert torch.allclose(ours, theirs, rtol=1e-10, atol=1e-10)
    one = torch.ones(2, 1, 2, dtype=torch.float64, requires_grad=True)
    (dP,) = torch.autograd.grad(PointKernel.apply(one, torch.ones(2, 1, 2, dtype=torch.float64)).sum(), one)
    assert not dP.any()


def test_a_compiled_checkpoint_leaves_the_kernel_of_a_gpu_its_gradients():
    """torch 2.11 compiles an autograd function within one to a gradient of zeros, without a word."""
    update, weights = make(mixed=False, kept=None), torch.randn(6, 7)

    def step(weights):
        K = checkpoint(lambda: update._kernel(transposed=True), use_reentrant=False, preserve_rng_state=False)
        return (K * weights).sum()

    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    ours, plain = (torch.autograd.grad(run(weights), [update.P, update.Q]) for run in (compiled, step))
    for a, b in zip(ours, plain, strict=True):
        assert b.norm() > 0 and torch.allclose(a, b, rtol=1e-3, atol=1e-5)


def test_allocation():
    assert allocate([1, 1, 2], [100, 100, 100], 40) == [10, 10, 20]
    assert allocate([8, 1, 1], [10, 100, 100], 50) == [10, 20, 20], "what a full layer cannot take goes to the others"
    assert allocate([1, 0, 0], [10, 20, 20], 30) == [10, 10, 10], "where the others score nothing, equally"
    assert allocate([3, 2, 1], [5, 5, 5], 15) == [5, 5, 5]
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        sizes = torch.randint(1, 500, (9,), generator=generator).tolist()
        scores = torch.rand(9, generator=generator).pow(6).tolist()
        total = int(torch.randint(0, sum(sizes) + 1, (), generator=generator))
        given = allocate(scores, sizes, total)
        assert sum(given) == total and all(0 <= n <= size for n, size in zip(given, sizes, strict=True))


@pytest.mark.parametrize("family", ["vit", "swin"])
def test_budgets_sum_to_the_schedule_at_each_epoch(attached, images, train, family):
    """And layers of one size get different ones once there are scores."""
    case = attached(family, "method=snella", "method.r=4", "method.rho=0.9")
    (method,) = case.methods
    updates = [branch.fn.update for layer in case.model.layers.values() for branch in layer.branches]
    entries = sum(update.size for update in updates)
    epochs = 5
    for epoch in range(epochs):
        method.on_epoch(epoch, epochs)
        kept = [update.kept.item() for update in updates]
        left = (1 - epoch / epochs) ** 3
        assert sum(kept) == budget(epoch, epochs, 0.99 * entries, 0.1 * entries) == round(entries * (0.1 + 0.89 * left))
        if epoch:
            alike = [update.kept.item() for update in updates if update.size == updates[0].size]
            assert max(alike) > min(alike) + 1, "more than what is left over by rounding"
        train(case, images, steps=2)
    assert sum(kept) < 0.11 * entries


def test_importance_is_a_moving_average_after_every_step(attached, images, train):
    case = attached("vit", "method=snella", "method.r=4", "method.dropout=0", "method.branch_drop=0")
    update = case.model.layers["blocks.1.attn.proj"].branches[0].fn.update
    seen, after = [], case.methods[0].after_step

    def noting(step, total):
        seen.append((update.P.detach() * update.P.grad).abs())
        after(step, total)

    case.methods[0].after_step = noting
    train(case, images, steps=3)
    mean, spread = torch.zeros_like(update.P), torch.zeros_like(update.P)
    for importance in seen:
        mean = 0.85 * mean + 0.15 * importance
        spread = 0.85 * spread + 0.15 * (importance - mean).abs()
    assert torch.allclose(update.mean_P, mean, rtol=1e-4) and torch.allclose(update.spread_P, spread, rtol=1e-4)


def test_an_adapter_file_holds_the_budgets(attached, images, train, tiny, tmp_path):
    import karst_bench

    case = attached("vit", "method=snella", "method.r=4", "method.rho=0.95")
    for epoch in range(3):
        case.methods[0].on_epoch(epoch, 3)
        train(case, images, steps=1)
    path = karst_bench.save_adapter(case.net, tmp_path / "adapter.safetensors")
    loaded = karst_bench.load_adapter(tiny("vit"), path).eval()
    assert torch.equal(loaded(images), case.net(images))
