"""Methods with a scoring pre-pass, against their mathematics: what is planted is found, what is chosen fits the budget."""

import copy

import pytest
import torch
from torch.nn.functional import cross_entropy

import karst_bench
from karst_bench.adapt.counts import counts
from karst_bench.adapt.scoring import TimmScoringModel, score_methods
from karst_bench.adapt.timm_sites import model_spec
from karst_bench.errors import UserError
from karst_bench.methods.build import build_methods
from karst_bench.nn.binary import one_bit

SPT = ["spt_lora", "spt_adapter"]


@pytest.fixture(scope="module")
def batch():
    generator = torch.Generator().manual_seed(8)
    return torch.randn(6, 3, 32, 32, generator=generator), torch.arange(6) % 5


def built(settings, *words):
    (method,) = build_methods(settings(*words, "extra=none"))
    return method


@pytest.mark.parametrize("family", ["vit", "swin"])
def test_a_scored_batch_is_one_pass_back(tiny, batch, family):
    """Gradients against autograd's own; an input's gradient by the chain rule through its layer: dW = dy^T x."""
    net = tiny(family)
    spec = model_spec(net)
    site = spec.having("proj")[0]
    torch.manual_seed(2)  # of timm's own drop-path on Swin
    (scored,) = TimmScoringModel(copy.deepcopy(net), lambda _: [batch]).batches(3, 6, inputs=[site])
    torch.manual_seed(2)
    names = [name for name, _ in spec.names]
    loss = cross_entropy(net.train()(batch[0]), batch[1])
    for name, gradient in zip(names, torch.autograd.grad(loss, [net.get_parameter(n) for n in names]), strict=True):
        assert torch.allclose(scored.gradients[name], gradient, atol=1e-6), name
    x, dx = scored.inputs[site.path]
    dW, db = (scored.gradients[f"{site.path}.{part}"] for part in ("weight", "bias"))
    weight = net.get_parameter(f"{site.path}.weight")
    # sum_t x_t . dx_t = sum_t x_t . W^T dy_t = <W, dW>
    assert (x * dx).sum().item() == pytest.approx((weight * dW).sum().item(), rel=1e-3)
    assert scored.images == 6 and db.shape == (site.d_out,)


@pytest.mark.parametrize("name", SPT)
@pytest.mark.parametrize(("family", "budget"), [("vit", 3000), ("vit", 9000), ("swin", 4000), ("swin", 8000)])
def test_spt_keeps_to_its_budget(tiny, batch, settings, name, family, budget):
    method = built(settings, f"method={name}", f"method.budget={budget}", "method.r=2")
    net = tiny(family)
    artefacts = score_methods(copy.deepcopy(net), [method], lambda _: [batch])
    model = karst_bench.adapt.attach.attach_methods(net, [method], artefacts=artefacts)
    total = counts(net, [method])["trainable_params"]
    assert total == artefacts[name].facts["total"] == method.expected_params(model.spec)
    assert abs(total - budget) <= 0.15 * budget


def test_spt_sensitivity_is_the_sum_of_squared_batch_gradients(tiny, batch, settings):
    """The weights that are chosen are those of highest rank by an own loop over batches."""
    method = built(settings, "method=spt_lora", "method.budget=400", "method.alpha=0.001", "method.beta=0.001")
    x, y = batch
    halves = [(x[:3], y[:3]), (x[3:], y[3:])]
    net = tiny("vit")
    found = score_methods(copy.deepcopy(net), [method], lambda _: halves)["spt_lora"]
    sums = {}
    for part in halves:
        net.zero_grad()
        cross_entropy(net.train()(part[0]), part[1]).backward()
        for name, p in net.named_parameters():
            sums[name] = sums.get(name, 0) + p.grad**2
    flat = []
    for site in model_spec(net).having("q", "k", "v", "proj", "fc1", "fc2"):
        start, stop = site.rows or (0, site.d_out)
        values = sums[f"{site.path}.weight"][start:stop].flatten()
        flat += [(value, site.name, i) for i, value in enumerate(values.tolist())]
    vectors = {name: p for name, p in sums.items() if p.ndim == 1 and name.startswith(("blocks", "norm"))}
    ranked = sorted(flat + [(value, name, i) for name, p in vectors.items() for i, value in enumerate(p.tolist())], reverse=True)
    expected = {(name, i) for _, name, i in ranked[: found.facts["tau"]] if name not in vectors}
    assert {(name, i) for name, index in found.tensors.items() for i in index.tolist()} == expected
    assert not found.facts["structured"]


def test_spt_finds_a_planted_weight(tiny, settings):
    """One entry of one matrix with all the sensitivity there is above the rest."""
    method = built(settings, "method=spt_lora", "method.budget=60")
    net = tiny("vit")
    spec = model_spec(net)
    sensitivity = {name: 1e-6 * torch.rand(p.shape) for name, p in net.named_parameters()}
    sensitivity["blocks.2.mlp.fc1.weight"][7, 11] = 3.0
    sensitivity["blocks.1.attn.qkv.weight"][48 + 5, 4] = 2.0  # row 5 of k
    sensitivity["blocks.3.norm2.bias"][:] = 1.0
    found = method.chosen(spec, sensitivity)
    assert 7 * 48 + 11 in found.tensors["blocks.2.mlp.fc1"].tolist()
    assert 5 * 48 + 4 in found.tensors["blocks.1.attn.qkv[k]"].tolist()
    method = built(settings, "method=spt_lora", "method.budget=140")
    assert "blocks.3.norm2.bias" in method.chosen(spec, sensitivity).facts["vectors"]
    with pytest.raises(UserError, match="no weight of the backbone has a gradient"):
        method.chosen(spec, {name: torch.zeros_like(value) for name, value in sensitivity.items()})


@torch.no_grad()
def test_spt_adapter_stands_on_the_output(attached, shake):
    """y + up gelu(down y) on the rows of q, and on the input of proj."""
    case = shake(attached("vit", "method=spt_adapter", "extra=none"))
    x = torch.randn(2, 5, 48)
    for path, rows in (("blocks.1.attn.qkv", (0, 48)), ("blocks.1.attn.proj", None)):
        layer = case.model.layers[path]
        place = layer.branch_rows.index(rows)
        adapter = layer.branches[place].fn[1]
        own = layer.base(x) if rows is None else layer.base(x)[..., :48]
        read = x if path.endswith("proj") else own
        expected = own + adapter.up(torch.nn.functional.gelu(adapter.down(read)))
        got = layer(x) if rows is None else layer(x)[..., :48]
        assert torch.allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("importance", ["activation", "weight"])
@pytest.mark.parametrize("family", ["vit", "swin"])
def test_heat_finds_a_planted_head(tiny, settings, batch, family, importance):
    """Only one head of a layer reaches the loss: proj's columns of the others are zero, and so are their scores."""
    net, alive, layer = tiny(family), 1, -1
    spec = model_spec(net)
    site = spec.having("proj")[layer]
    width = site.d_in // spec.heads[layer]
    with torch.no_grad():
        columns = net.get_parameter(f"{site.path}.weight")
        kept = columns[:, alive * width : (alive + 1) * width].clone()
        columns.zero_()[:, alive * width : (alive + 1) * width] = 10 * kept
    method = built(settings, "method=heat", "method.scope=layer", "method.masked=0.9", f"method.importance={importance}")
    found = score_methods(net, [method], lambda _: [batch])["heat"]
    assert found.facts["kept"][layer] == [alive]
    scores = found.tensors[f"importance/{spec.depth - 1}"]
    assert scores[alive] > 0 and scores.sum() == scores[alive]


def test_heat_activation_importance_image_by_image(tiny, settings, batch):
    net = tiny("swin")
    site = model_spec(net).having("proj")[0]
    torch.manual_seed(2)
    (scored,) = TimmScoringModel(copy.deepcopy(net), lambda _: [batch]).batches(1, 6, inputs=[site])
    z, dz = scored.inputs[site.path]
    per_image = len(z) // 6
    expected = sum((z[i * per_image : (i + 1) * per_image] * dz[i * per_image : (i + 1) * per_image]).sum().abs() for i in range(6))
    torch.manual_seed(2)
    found = score_methods(net, [built(settings, "method=heat")], lambda _: [batch])["heat"]
    assert found.tensors["importance/0"].item() == pytest.approx(expected.item(), rel=1e-4)  # one head in stage 0


@torch.no_grad()
def test_heat_changes_kept_heads_alone_by_its_equation(attached, shake):
    case = shake(attached("vit", "method=heat", "method.s=0.5"))
    kept = case.model.artefacts["heat"].facts["kept"]
    assert len(kept[0]) == 2 and kept[0] == kept[3], "one of three heads, the same in every layer"
    layer = case.model.layers["blocks.2.attn.qkv"]
    change = layer.fold()[0] - layer.base.weight
    update = layer.branches[1].update  # of v

    def quantised(w):
        std = ((w.double() - w.double().mean()) ** 2).sum().div(w.numel() - 1).sqrt()
        return w.double().mean() + 0.6745 * std * (2 * (w.double() >= w.double().mean()) - 1)

    product = 0.5 * quantised(update.U) @ quantised(update.D)
    for place, head in enumerate(kept[2]):
        rows = change[96 + 16 * head : 96 + 16 * head + 16].double()
        assert torch.allclose(rows, product[16 * place : 16 * place + 16], atol=1e-5)
    (gone,) = {0, 1, 2} - set(kept[2])
    assert not change[96 + 16 * gone : 112 + 16 * gone].any() and not change[48:96].any()


def test_heat_bits(attached):
    case = attached("vit", "method=heat")
    masked = counts(case.net, case.methods)["stored_bits"]
    whole = 4 * 2 * 32 * (48 + 48)
    assert masked == whole - 4 * 2 * 32 * 16, "a masked head takes its rows of U along"


def test_one_bit_passes_the_gradient_through():
    w = torch.randn(5, 7, requires_grad=True)
    weights = torch.randn(5, 7)
    value = one_bit(w)
    (value * weights).sum().backward()
    assert torch.allclose(w.grad, weights) and len(value.detach().round(decimals=5).unique()) == 2
    assert (value.max() - value.min()).item() == pytest.approx(2 * 0.6745 * w.std().item(), rel=1e-4)


@pytest.mark.parametrize("name", [*SPT, "heat"])
def test_without_a_pre_pass_it_is_refused_and_with_one_it_is_attached(tiny, batch, name):
    with pytest.raises(UserError, match="scoring"):
        karst_bench.attach(tiny("vit"), name)
    net = karst_bench.attach(tiny("vit"), name, scoring=[batch], seed=3)
    assert karst_bench.adapt.attach.adapted_model(net).artefacts[name].facts
