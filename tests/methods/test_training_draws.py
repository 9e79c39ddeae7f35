"""Training: what each method draws (how often, for whom), its gradients at a fixed draw; five planted mistakes are caught.

An image draws bits; every combination of them has a value, by the equation (draws.py). 2000 identical images in one batch
must give these values and no others, each as often as its probability says.
"""

from functools import partialmethod

import pytest
import torch
from draws import draws, kernel
from scipy.stats import chisquare
from torch import nn

from karst_bench.adapt.window_tokens import WindowTokens
from karst_bench.config.option_files import options
from karst_bench.engine.step import train_mode
from karst_bench.methods.build import SHARES
from karst_bench.methods.repadapter import Reparameterised
from karst_bench.nn.kernel_delta import KernelDelta
from karst_bench.nn.prompts import Prompts
from karst_bench.nn.weight_dependent import MagnitudeDirection

N = 2000
CASES = draws()


def drawn(case, seed, n=N):
    """(n, k) outcomes and, for each, which of the equation's values it is."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        seen = case.call(case.module, n)
    values = torch.stack([value.detach() for _, value in case.outcomes()])
    distance = (seen.detach()[:, None] - values).abs().amax(2)
    assert distance.min(1).values.max() < 1e-5, "a value that no draw gives"
    return seen, distance.argmin(1)


def check_distribution(case):
    """Images of one batch draw apart; number of outcomes, frequencies, mean and variance are those of the equation."""
    seen, which = drawn(case, seed=1)
    chances, values = zip(*case.outcomes(), strict=True)
    counts = torch.bincount(which, minlength=len(chances))
    assert (counts > 0).all(), f"outcomes that never came: {counts.tolist()}"
    assert chisquare(counts, N * torch.tensor(chances, dtype=torch.float64)).pvalue > 1e-3
    p, v = torch.tensor(chances)[:, None], torch.stack([value.detach() for value in values])
    mean = (p * v).sum(0)
    variance = (p * (v - mean) ** 2).sum(0)
    kurtosis = (p * (v - mean) ** 4).sum(0)
    assert ((seen.mean(0) - mean).abs() <= 4 * (variance / N).sqrt() + 1e-6).all()
    assert ((seen.var(0) - variance).abs() <= 4 * ((kurtosis - variance**2).clamp_min(0) / N).sqrt() + 1e-6).all()


def check_gradients(case):
    """At fixed draws, one image at a time: the gradient of every parameter is that of the equation with the same bits."""
    weights, parameters = torch.tensor([0.6, -1.7]), list(case.module.parameters())
    for seed in range(4):
        seen, which = drawn(case, seed, n=1)
        ours = torch.autograd.grad((seen[0] * weights).sum(), parameters, allow_unused=True)
        value = case.outcomes()[int(which)][1]
        theirs = torch.autograd.grad((value * weights).sum(), parameters, allow_unused=True)
        for p, a, b in zip(parameters, ours, theirs, strict=True):
            zero = torch.zeros_like(p)
            torch.testing.assert_close(zero if a is None else a, zero if b is None else b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_what_is_drawn(name):
    check_distribution(CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_gradients_at_a_fixed_draw(name):
    check_gradients(CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_evaluation_draws_nothing_and_is_the_mean_where_the_draw_comes_last(name):
    case = draws()[name]
    case.module.eval()
    seen = case.call(case.module, 3)
    assert torch.equal(seen[0], seen[1]) and torch.equal(seen, case.call(case.module, 3))
    mean = sum(chance * value for chance, value in case.outcomes())  # every part behind a draw is linear here
    torch.testing.assert_close(seen[0], mean, rtol=1e-4, atol=1e-5)


def test_every_module_that_draws_has_its_equation_here(attached, settings):
    """A new method with a random part fails here until its module stands in draws.py."""
    known = {type(module).forward for case in CASES.values() for module in case.module.modules()}
    for name in options("method"):
        method = settings(f"method={name}")["method"]
        if name == "none" or not any(method.get(key) for key in SHARES):
            continue
        for module in attached("vit", f"method={name}").net.modules():
            rates = [child.p for child in module.children() if isinstance(child, nn.Dropout)]
            rates += [getattr(module, key) for key in ("p", "drop_path") if isinstance(getattr(module, key, None), float)]
            if any(rates) and not isinstance(module, nn.Sequential):  # SPT's dropout and bottleneck, one after the other
                assert type(module).forward in known, f"{name}: {type(module).__name__}"


# SNELL's sparse weight: what is a constant in backward ------------------------------------------------------------


def check_constant_in_backward(update):
    """dW = D |D| above the threshold, and its gradient with respect to D is |D| there, not 2 |D|."""
    D = kernel(update)
    size = D.detach().abs()
    above = size >= size.flatten().sort().values[-int(update.kept)]
    weights = torch.tensor([[1.0, -2.0], [0.5, 3.0]])
    dW = update.delta(weights)
    torch.testing.assert_close(dW, D * size * above, rtol=1e-4, atol=1e-6)
    ours = torch.autograd.grad((dW * weights).sum(), [update.P, update.Q])
    theirs = torch.autograd.grad((D * (weights * size * above)).sum(), [update.P, update.Q])
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.fixture
def sparse_kernel():
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return KernelDelta(2, 2, r=4, kept=3)


def test_snells_threshold_and_size_are_constants(sparse_kernel):
    check_constant_in_backward(sparse_kernel)


# DoRA: the length of a row ----------------------------------------------------------------------------------------


def check_rows_have_lengths(update):
    """W = m V / |V| by rows; in backward |V| is a number: dL/dV = m / |V| dL/dW, so B, A and m follow by hand."""
    W0, G = torch.tensor([[0.3, -1.2], [0.8, 0.5]]), torch.tensor([[1.0, -2.0], [0.5, 3.0]])
    A, B, mu, s = update.A.detach(), update.B.detach(), update.mu.detach(), update.s
    V = W0 + s * B @ A
    length, m = (V**2).sum(1, keepdim=True) ** 0.5, (W0**2).sum(1, keepdim=True) ** 0.5 + mu[:, None]
    dW = update.delta(W0)
    torch.testing.assert_close(W0 + dW, m * V / length, rtol=1e-4, atol=1e-6)
    dV = m / length * G
    expected = [s * B.T @ dV, s * dV @ A.T, (V / length * G).sum(1)]
    ours = torch.autograd.grad((dW * G).sum(), [update.A, update.B, update.mu])
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.fixture
def length_update():
    with torch.random.fork_rng():
        torch.manual_seed(4)
        update = MagnitudeDirection(2, 2, r=1, s=0.5)
        with torch.no_grad():
            for p in update.parameters():
                p.copy_(torch.randn(p.shape))
    return update


def test_doras_length_is_a_constant_in_backward(length_update):
    check_rows_have_lengths(length_update)


def lengths(self, W0, *, axis, detached):
    """DoRA's update with the length over another axis, or in the graph."""
    change = self.s * self.B @ self.A
    V = W0 + change
    length = (V.detach() if detached else V).norm(dim=axis, keepdim=True)
    m = W0.norm(dim=axis, keepdim=True) + (self.mu[:, None] if axis == 1 else self.mu)
    return change + (m / length - 1) * V


# VPT on whole models ----------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("family", ["vit", "swin"])
def test_prompts_are_dropped_for_each_image_but_on_swin_in_the_first_block_alone(attached, images, family):
    case = attached(family, "method=vpt_deep", "method.dropout=0.5", "method.p=2")
    train_mode(case.net, "eval")
    x = images[:1].expand(4, -1, -1, -1)

    def distinct(logits):
        return len(torch.unique(logits, dim=0))

    assert distinct(case.net(x)) == 4
    prompts = [module for module in case.net.modules() if isinstance(module, Prompts)]
    prompts[0].drop.p = 0.0
    batches = [case.net(x) for _ in range(2)]
    assert not torch.equal(*batches)
    if family == "vit":
        assert distinct(batches[0]) == 4
    else:
        torch.testing.assert_close(batches[0], batches[0][:1].expand(4, -1))  # one mask a batch


def check_pooled(case, images, norm=None):
    """Swin's last block and read-out, written out: prompts ask, get, pass the MLP half and are pooled with the patches."""
    net, seen = case.net, {}
    block = net.layers[-1].blocks[-1]
    handle = block.register_forward_pre_hook(lambda _, arguments: seen.update(h=arguments[0]))
    logits = net(images)
    handle.remove()
    attn, h = block.attn.base, seen["h"].flatten(1, 2)  # one window
    prompts = block.attn.prompts.tokens.expand(len(h), -1, -1)
    x = torch.cat([prompts, h], dim=1)
    heads, p = attn.num_heads, prompts.shape[1]
    q, k, v = attn.qkv(block.norm1(x)).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    scores = q @ k.mT / q.shape[-1] ** 0.5
    scores[:, :, p:, p:] += attn._get_rel_pos_bias()
    x = x + attn.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
    x = x + block.mlp(block.norm2(x))
    torch.testing.assert_close(logits, net.head.fc((norm or net.norm.base)(x).mean(1)), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_swin_pools_the_last_blocks_prompts(attached, images):
    check_pooled(attached("swin", "method=vpt_deep", "method.p=3"), images)


@torch.no_grad()
def test_prompts_leave_several_windows_as_their_mean(tiny):
    """Window by window, for each image apart; its windows stand beside each other."""
    block = tiny("swin").layers[0].blocks[0]
    tokens, x = torch.randn(2, 3, 16), torch.randn(2 * 16, 16, 16)
    layer = WindowTokens(block.attn, block, lambda images: tokens, grid=lambda: (16, 16), per_image=True, keep=True)
    own = layer(x)
    attn, d = block.attn, 16
    for image in range(2):
        left = []
        for w in range(16):
            inside = torch.cat([block.norm1(tokens[image]), x[16 * image + w]])
            q, k, v = (inside @ attn.qkv.weight.T + attn.qkv.bias).split(d, dim=1)
            scores = q @ k.T / d**0.5
            scores[3:, 3:] += attn._get_rel_pos_bias()[0, 0]
            y = attn.proj(scores.softmax(-1) @ v)
            left.append(y[:3])
            torch.testing.assert_close(own[16 * image + w], y[3:], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(layer.left["prompts"][image], tokens[image] + torch.stack(left).mean(0), rtol=1e-4, atol=1e-5)


# Planted mistakes -------------------------------------------------------------------------------------------------


def test_a_mask_for_the_whole_batch_is_caught(monkeypatch):
    monkeypatch.setattr(Prompts, "forward", lambda self, n: self.drop(self.tokens).expand(n, -1, -1))
    with pytest.raises(AssertionError, match="never came"):
        check_distribution(draws()["prompts"])


def test_a_shared_draw_is_caught():
    case = draws()["own_drop_path"]
    case.module.places = [("norm", "inside")]
    with pytest.raises(AssertionError, match="never came"):
        check_distribution(case)


def test_a_wrong_sign_is_caught(monkeypatch):
    right = Reparameterised.forward
    monkeypatch.setattr(Reparameterised, "forward", lambda self, x: 2 * x - right(self, x))
    with pytest.raises(AssertionError, match="no draw gives"):
        check_distribution(draws()["repadapter"])
    with pytest.raises(AssertionError):
        check_gradients(draws()["repadapter"])


def test_what_is_not_detached_is_caught(monkeypatch, sparse_kernel):
    def attached_size(self, W0):
        D = kernel(self)
        return D * torch.where(D.abs() > self._threshold(D.abs()), D.abs(), 0.0)

    monkeypatch.setattr(KernelDelta, "delta", attached_size)
    with pytest.raises(AssertionError):
        check_constant_in_backward(sparse_kernel)


@pytest.mark.parametrize(("axis", "detached"), [(0, True), (1, False)], ids=["wrong axis", "not detached"])
def test_a_length_that_is_wrong_is_caught(monkeypatch, length_update, axis, detached):
    monkeypatch.setattr(MagnitudeDirection, "delta", partialmethod(lengths, axis=axis, detached=detached))
    with pytest.raises(AssertionError):
        check_rows_have_lengths(length_update)


@torch.no_grad()
def test_a_norm_over_the_wrong_axis_is_caught(attached, images):
    case = attached("swin", "method=vpt_deep", "method.p=3")
    norm = case.net.norm.base
    wrong = nn.Module()
    wrong.forward = lambda x: nn.functional.layer_norm(x.mT, x.mT.shape[-1:]).mT * norm.weight + norm.bias
    case.net.norm.base = wrong
    with pytest.raises(AssertionError):
        check_pooled(case, images, norm)
