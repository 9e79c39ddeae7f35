"""PACE against its definition: the noise block by block, both copies, the three modes."""

from dataclasses import replace

import pytest
import torch
from torch.func import functional_call
from torch.nn.functional import cross_entropy, linear

from karst_bench.adapt.noise import SharedDropPath, add_noise, strengths
from karst_bench.config.compose import settings_of
from karst_bench.engine.mix import Mix
from karst_bench.engine.objective import Consistency, CrossEntropy, PaceSettings
from karst_bench.engine.schedule import epoch_rates
from karst_bench.errors import UserError
from karst_bench.nn.noise import BatchInHand, PartNoise

LORA = ("method=lora", "method.sites=qkv_fused", "method.dropout=0")


@pytest.fixture(scope="module")
def mini_recipe():
    return settings_of(["recipe=mini"]).recipe


def consistency(recipe, head, *, memory=0, **changes):
    settings = PaceSettings(**({"mode": "pace", "lam": 0.7, "sigma": 1.2, "every": 1} | changes))
    return Consistency(recipe, "fp32", settings, head, torch.zeros(memory, 5))


def test_strengths(tiny):
    from karst_bench.adapt.timm_sites import model_spec

    vit, swin = (strengths(model_spec(tiny(family)), 1.2) for family in ("vit", "swin"))
    assert vit == pytest.approx([0, 1.2, 0.9, 0.6, 0.3])  # 0, then (13 - i) / 12 at depth 12
    assert swin == pytest.approx([1.2 * (6 - i) / 6 for i in range(6)])


@torch.no_grad()
@pytest.mark.parametrize("family", ["vit", "swin"])
def test_variance_of_2000_draws_by_block(attached, shake, family):
    """The mean is the plain output, the variance (sigma_i a)^2 in each channel; tokens and windows of an image share a draw."""
    case = shake(attached(family, *LORA))
    noise = add_noise(case.net.double(), 1.2)
    torch.manual_seed(0)
    for (path, layer), sigma in zip(case.model.layers.items(), strengths(case.model.spec, 1.2), strict=False):
        x = torch.randn(1, 3, layer.base.in_features, dtype=torch.float64).expand(4000, -1, -1)
        a = layer.eval()(x[:1]) - layer.base(x[:1])
        with noise.batch.holding(2000, 1):  # two windows an image
            y = layer.train()(x) - layer.base(x)
        share = y / a
        assert torch.allclose(share, share[:, :1].expand_as(share), atol=1e-6), path
        assert torch.allclose(share[::2], share[1::2], atol=1e-6)
        if sigma == 0:
            assert torch.allclose(y, a.expand_as(y), atol=1e-6)
            continue
        seen = share[::2, 0]
        assert seen.var(0).mean().item() == pytest.approx(sigma**2, rel=0.03), path
        assert seen.var(0).max() < 1.3 * sigma**2 and (seen.mean(0) - 1).abs().max() < 5 * sigma / 2000**0.5


def test_every_part_has_the_strength_of_its_block(attached):
    """Adapters of block i that of block i; a patch merging, which is of no block, that of its stage's first."""
    vit = attached("vit", "method=adapter_pfeiffer")
    add_noise(vit.net, 1.2)
    expected = strengths(vit.model.spec, 1.2)
    found = {block: residual.noise.sigma for (block, _), residual in vit.model.residuals.items()}
    assert found == dict(enumerate(expected[:-1])) and len({*found.values()}) == 4
    swin = attached("swin", "method=lora", "method.sites=[reduction]")
    add_noise(swin.net, 1.2)
    sites, stages = {site.path: site for site in swin.model.spec.sites}, swin.model.spec.stages
    assert swin.model.layers
    for path, layer in swin.model.layers.items():
        assert layer.noise.sigma == strengths(swin.model.spec, 1.2)[stages.index(sites[path].stage)] != 0


def test_loss_and_gradient_at_a_fixed_draw(attached, shake, images, monkeypatch, mini_recipe):
    """A noised image is a plain one through a model whose changes are scaled by its own draw, row by row."""
    case, y = shake(attached("vit", *LORA)), torch.arange(4)
    noise, randn, draws = add_noise(case.net, 1.2), torch.randn, []
    objective = consistency(mini_recipe, noise.head)
    torch.manual_seed(4)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "randn", lambda *a, **k: draws.append(randn(*a, **k)) or draws[-1])
        found = objective(case.net.train(), images, y, mixed=None, step=0, index=None)
    live = dict(case.net.named_parameters())
    ours = torch.autograd.grad(found.loss, list(case.model.trained().values()))
    assert len(draws) == 5 and all(draw.shape[0] == 8 for draw in draws)
    logits = []
    for row in range(8):
        scaled = {}
        for path, n, sigma in zip(case.model.layers, draws, strengths(case.model.spec, 1.2), strict=False):
            name = f"{path}.deltas.0.B"
            scaled[name] = (1 + sigma * n[row].flatten())[:, None] * live[name]
            case.model.layers[path].noise = None
        z = functional_call(case.net, scaled, (images[row % 4][None],))
        logits.append(z[0] * (1 + 0.3 * draws[-1][row]))
    z1, z2 = torch.stack(logits[:4]), torch.stack(logits[4:])
    loss = cross_entropy(z1, y) + 0.7 * sum(((a - b) ** 2).sum() for a, b in zip(z1, z2, strict=True)) / 4
    assert torch.allclose(found.loss, loss, rtol=1e-4) and torch.allclose(found.logits, z1, atol=1e-4)
    theirs = torch.autograd.grad(loss, list(case.model.trained().values()))
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-4 * max(1.0, b.abs().max().item()))


@torch.no_grad()
def test_evaluation_and_merging_are_plain(attached, shake, images):
    from karst_bench.adapt.merge import merge

    case = shake(attached("vit", "method=karst"))
    plain, trained = case.net(images), sum(p.numel() for p in case.model.trained().values())
    noise = add_noise(case.net, 1.2)
    assert torch.equal(case.net.eval()(images), plain)
    assert sum(p.numel() for p in case.model.trained().values()) == trained
    assert noise.said() == "PACE's noise: on 16 linear layers, the head"
    assert not torch.equal(case.net.train()(images), plain)
    assert torch.allclose(merge(case.net.eval())(images), plain, atol=1e-4)


@pytest.mark.parametrize(("name", "said"), [
    ("vpt_deep", "on the head; none on"), ("full", "on the head; none on the backbone's own parameters"),
    ("adaptformer", "on 4 adapters, the head"), ("ssf", "on 16 linear layers, the head; none on 9 norms, 1 convs"),
])  # fmt: skip
def test_what_has_no_linear_is_said(attached, name, said):
    assert said in add_noise(attached("vit", f"method={name}").net, 1.0).said()


def test_cross_entropy_is_computed_in_fp32_and_smooths_both_labels_of_a_mixed_batch(mini_recipe):
    """share L(y) + (1 - share) L(y') with L = 0.9 CE + 0.1 of the mean over classes, each written out."""
    objective = CrossEntropy(replace(mini_recipe, label_smoothing=0.1), "bf16")
    model, x, y, second = Rows(), torch.randn(4, 6), torch.arange(4), torch.arange(4).flip(0)
    found = objective(model, x, y, mixed=Mix(second, 0.3), step=0, index=None)
    assert found.logits.dtype == found.loss.dtype == torch.float32
    logp = found.logits.detach().double().log_softmax(1)
    smooth = [-(0.9 * logp.gather(1, labels[:, None])[:, 0] + 0.1 * logp.mean(1)).mean() for labels in (y, second)]
    assert found.loss.item() == pytest.approx((0.3 * smooth[0] + 0.7 * smooth[1]).item(), rel=1e-6)


class Rows(torch.nn.Linear):
    """A head over five inputs that notes how many rows it was given."""

    def __init__(self):
        super().__init__(6, 5)
        self.given = []

    def forward(self, x):
        self.given.append(len(x))
        return linear(x, self.weight, self.bias)


def test_lazy_takes_half_the_batch_every_kth_step(mini_recipe):
    model, batch = Rows(), BatchInHand()
    x, y = torch.randn(5, 6), torch.arange(5)
    objective = consistency(mini_recipe, PartNoise(0.0, batch), mode="lazy", every=3)
    found = [objective(model, x, y, mixed=None, step=step, index=None) for step in range(4)]
    assert model.given == [6, 5, 5, 6]
    plain = model(x)
    for step, one in enumerate(found):
        n = 3 if step in (0, 3) else 5
        assert torch.allclose(one.loss, cross_entropy(plain[:n], y[:n])) and len(one.logits) == n
    noisy = consistency(mini_recipe, PartNoise(1.0, batch), mode="lazy", every=3)(model, x, y, mixed=None, step=3, index=None)
    assert noisy.loss > cross_entropy(noisy.logits, y[:3]), "the copies draw apart"


def test_fast_remembers_an_epoch(mini_recipe):
    """0 at the start; then what this image gave before, wherever it stood in its batch, without a gradient."""
    model, x, y = Rows(), torch.randn(6, 6), torch.arange(6) % 5
    objective = consistency(mini_recipe, PartNoise(0.0, BatchInHand()), mode="fast", memory=6)
    index = torch.tensor([4, 1, 0])
    first = objective(model, x[index], y[index], mixed=None, step=0, index=index)
    before = model(x).detach()
    assert torch.allclose(first.loss, cross_entropy(before[index], y[index]) + 0.7 * before[index].square().sum(1).mean())
    state = objective.state()
    with torch.no_grad():
        model.weight.add_(0.1)
    again = torch.tensor([0, 5, 4])
    remembered = torch.stack([before[0], torch.zeros(5), before[4]])
    for one in (objective, consistency(mini_recipe, objective.head, mode="fast", memory=6)):
        one.restore(state)
        found = one(model, x[again], y[again], mixed=None, step=1, index=again)
        now = model(x[again])
        assert torch.allclose(found.loss, cross_entropy(now, y[again]) + 0.7 * (now - remembered).square().sum(1).mean())
    generator = torch.Generator().manual_seed(3)
    assert torch.equal(objective.places(generator.get_state()), torch.randperm(6, generator=generator))


def test_drop_path_is_shared_by_the_copies():
    batch = BatchInHand()
    path, x = SharedDropPath(0.4, batch).train(), torch.ones(20, 3, 2)
    torch.manual_seed(1)
    with batch.holding(20, 2):
        y = path(x)
    assert torch.equal(y[:10], y[10:]) and torch.equal(path.eval()(x), x)
    assert 0 < (y[:, 0, 0] == 0).sum() < 20 and y.mean().item() == pytest.approx(1), "divided by the batch's mean"


def test_a_bad_value_is_refused():
    with pytest.raises(UserError, match="mode=slow"):
        PaceSettings.of({"name": "pace", "mode": "slow", "lam": 1, "sigma": 1, "every": 1})
    assert PaceSettings.of({"name": "none"}) is None


def test_its_recipe():
    """Epochs from 0, of PACE's scheduler: one epoch's lag, warm-up 10, half a cosine over 300."""
    recipe = settings_of(["recipe=pace300"]).recipe
    rates, expected = epoch_rates(recipe), {0: 1e-6, 1: 1e-6, 2: 1.009e-4, 10: 9.001e-4, 11: 9.973e-4, 50: 9.363e-4, 299: 1.011e-5}
    assert [rates[epoch] for epoch in expected] == pytest.approx(list(expected.values()), rel=6e-4)
    assert (recipe.epochs, recipe.batch, recipe.wd, recipe.decay_1d, recipe.drop_last) == (300, 64, 1e-4, "all", True)
