"""GLoRA and NOAH against their mathematics and the sheet's counts."""

import statistics
from random import Random

import pytest
import timm
import torch
from torch.nn.functional import linear

from karst_bench.adapt.attach import attach_methods
from karst_bench.adapt.counts import counts
from karst_bench.adapt.merge import merge
from karst_bench.adapt.timm_sites import model_spec
from karst_bench.config.compose import settings_of
from karst_bench.errors import UserError
from karst_bench.methods.build import build_methods
from karst_bench.nn.glora import OPTIONS

# NOAH's published subnet for CIFAR-100 and what its sizes sum to by hand: 69 prompts, 47 ranks, 74 units
CIFAR = {
    "VISUAL_PROMPT_DIM": [10, 5, 10, 1, 5, 1, 10, 1, 10, 5, 1, 10],
    "LORA_DIM": [10, 1, 5, 5, 1, 10, 1, 1, 1, 10, 1, 1],
    "ADAPTER_DIM": [5, 10, 10, 10, 5, 1, 1, 1, 10, 10, 10, 1],
}
CIFAR_PARAMS = 768 * 69 + 3072 * 47 + (2 * 768 + 1) * 74 + 12 * 768


@pytest.fixture(scope="module")
def vit_b16():
    with torch.device("meta"):
        return model_spec(timm.create_model("vit_base_patch16_224", num_classes=10))


def built(settings, *words):
    (method,) = build_methods(settings(*words))
    return method


@pytest.fixture
def supernet(tiny, settings):
    """supernet(family, *words): the method and its model, attached without a subnet, all that trains moved off its start."""

    @torch.no_grad()
    def build(family, *words):
        method, net = built(settings, *words), tiny(family)
        with torch.random.fork_rng():
            torch.manual_seed(4)
            model = attach_methods(net, [method])
            for p in model.trained().values():
                p.add_(0.1 * torch.randn_like(p))
        return method, net.eval(), model

    return build


def test_glora_counts(settings, vit_b16):
    method = built(settings, "method=glora")
    assert method.expected_params(vit_b16) == 884_832 and method.active_params(vit_b16) == 308_824
    space, rng = method.subnets(vit_b16), Random(0)
    drawn = [space.params(space.draw(rng)) for _ in range(200)]
    assert abs(statistics.mean(drawn) - 308_824) <= 3 * statistics.stdev(drawn) / 200**0.5
    for r, total in ((4, 1_604_000), (8, 3_042_000)):
        assert abs(built(settings, "method=glora", f"method.r={r}").expected_params(vit_b16) - total) < 1000


def test_noah_counts(settings, vit_b16, tmp_path):
    assert built(settings, "method=noah", "method.subnet={vpt:5,lora:5,adapter:5}").expected_params(vit_b16) == 331_836
    method = built(settings, "method=noah")
    assert method.expected_params(vit_b16) == 654_456 and method.active_params(vit_b16) == 353_344
    published = tmp_path / "subnet.yaml"
    published.write_text(f"RETRAIN: {CIFAR}\n")
    given = settings_of(["method=noah", f"method.subnet={published}"]).as_config()
    assert given["method"]["stages"] == {}, "what does not happen is no part of a run"
    (method,) = build_methods(given)
    assert method.expected_params(vit_b16) == CIFAR_PARAMS == 320_330
    few = settings_of(["method=noah", "dataset=fewshot/pets", "dataset.shots=4"]).as_config()
    (method,) = build_methods(few)
    space = method.subnets(vit_b16)
    assert tuple(space.depths) == (3, 6, 9, 12) and list(space.kinds["vpt"]) == [5, 10, 50, 100]
    assert method.search_stages().supernet.epochs == 300


def test_suites_have_lengths_of_their_own_and_the_command_line_wins():
    def stages(*words):
        return settings_of(["method=glora", *words]).method["stages"]

    assert stages("dataset=vtab/dtd")["supernet"] == {"split": "fit", "epochs": 500, "lr": 1e-4}
    mini = stages("dataset=mini/digits")
    assert mini["supernet"]["epochs"] == 20 and mini["evolve"]["generations"] == 5
    assert stages("dataset=mini/digits", "method.stages.supernet.epochs=3")["supernet"] == mini["supernet"] | {"epochs": 3}
    noah = settings_of(["method=noah", "dataset=mini/digits", "+method.stages.train={epochs:3,lr:0.5}"])
    assert (noah.recipe.epochs, noah.recipe.lr) == (3, 0.5)


@torch.no_grad()
@pytest.mark.parametrize("family", ["vit", "swin"])
def test_glora_is_its_equation_for_every_option(supernet, family):
    """Each support tensor written out as a full matrix or vector, in float64."""
    method, _, model = supernet(family, "method=glora")
    space, rng = method.subnets(model.spec), Random(1)
    seen = set()
    for _ in range(6):
        method.choose(space.draw(rng))
        for layer in model.layers.values():
            update, W, b = layer.deltas[0], layer.base.weight.double(), layer.base.bias.double()
            word = update.words
            seen |= set(word.items())
            p = {name: value.double() for name, value in update.named_parameters()}
            A, B = (
                {"lora": p[f"{n}_d"] @ p[f"{n}_u"], "vector": p[f"{n}_d"][:, :1].expand_as(W),
                 "constant": p[f"{n}_d"][0, 0].expand_as(W), "none": torch.zeros_like(W)}[word[n]] for n in "AB"
            )  # fmt: skip
            C = {"lora": p["C_d"] @ p["C_u"], "vector": p["C_d"][:, :1], "none": torch.zeros(W.shape[1], 1).double()}[word["C"]]
            D, E = ({"vector": p[n], "constant": p[n][0].expand_as(b), "none": torch.zeros_like(b)}[word[n]] for n in "DE")
            x = torch.randn(3, W.shape[1], dtype=torch.float64)
            expected = x @ (W + W * A + B).T + b + b * D + E + (W @ C)[:, 0]
            assert torch.allclose(layer(x.float()).double(), expected, atol=1e-4)
    assert seen == {(name, option) for name, options in OPTIONS for option in options}


@torch.no_grad()
@pytest.mark.parametrize("family", ["vit", "swin"])
def test_a_merged_subnet_equals_the_unmerged_one(supernet, tiny, images, family):
    method, net, model = supernet(family, "method=glora")
    method.choose(method.subnets(model.spec).draw(Random(7)))
    adapted, start = net(images), tiny(family)(images)
    plain = tiny(family)
    plain.load_state_dict(merge(net).state_dict())
    assert (adapted - start).abs().max() > 0.1
    assert (plain(images) - adapted).abs().max() <= 1e-4 * max(1.0, adapted.abs().max().item())


@pytest.mark.parametrize(("family", "name"), [("vit", "glora"), ("swin", "glora"), ("vit", "noah")])
def test_the_supernet_draws_another_subnet_in_every_step_by_its_number(supernet, images, family, name):
    """What is off in a step gets no gradient; the same step draws the same again."""
    method, net, model = supernet(family, f"method={name}")
    space = method.subnets(model.spec)
    chosen, choose = [], method.choose
    method.choose = lambda subnet: chosen.append(subnet) or choose(subnet)
    for step in (0, 1, 2, 1):
        method.before_step(step, 3)
        net.zero_grad(set_to_none=True)
        net(images).square().sum().backward()
        used = sum(int((p.grad != 0).sum()) for p in model.trained().values() if p.grad is not None)
        assert 0.9 * space.params(chosen[-1]) <= used <= space.params(chosen[-1])
    assert chosen[1] == chosen[3] and len(set(chosen)) == 3
    assert counts(net, [method])["trainable_params"] == space.params(space.largest())


@torch.no_grad()
def test_noah_is_token_algebra(supernet, tiny, images):
    """Blocks called one after the other, prompts at the end, sizes with zeros; as a slice of the supernet and built alone."""
    method, net, model = supernet("vit", "method=noah")
    subnet = ((0, 5, 0, 1), (1, 0, 10, 5), (5, 10, 0, 1))
    flat = tuple(size for sizes in subnet for size in sizes)
    method.choose(flat)
    plain, hooks = tiny("vit"), net.blocks[0].hooks.hooks[0]
    h, tail = plain._pos_embed(plain.patch_embed(images)), 0
    for i, block in enumerate(plain.blocks):
        p, rank, a = (sizes[i] for sizes in subnet)
        if p:
            h = torch.cat([h[:, : h.shape[1] - tail], hooks.prompts[str(i)].tokens[:p].expand(4, -1, -1)], dim=1)
            tail = p
        assert h.shape[1] == 17 + tail
        lora, adapter = method._loras[i], method._adapters[i]
        block.attn.qkv.weight += lora.W_b[:, :rank] @ lora.W_a[:rank]
        h = h + block.attn(block.norm1(h))
        u = block.mlp(block.norm2(h))
        z = linear(u, adapter.W_1[:a], adapter.b_1[:a])
        h = h + u + (linear(z * torch.sigmoid(1.702 * z), adapter.W_2[:, :a], adapter.b_2) if a else 0)
    expected = plain.head(plain.norm(h)[:, 0])
    assert torch.allclose(net(images), expected, atol=1e-4)
    alone = tiny("vit")
    found = attach_methods(alone, [method], artefacts={"noah": method.found(flat)})
    whole = model.trained()
    for name, p in found.trained().items():
        p.copy_(whole[name][tuple(slice(0, size) for size in p.shape)])
    assert counts(alone, [method])["trainable_params"] == method.expected_params(model.spec)
    assert torch.allclose(alone.eval()(images), expected, atol=1e-4)
    assert not {"blocks.2.hooks.hooks.0.prompts.0.tokens"} & found.trained().keys()


@pytest.mark.parametrize("name", ["glora", "noah"])
@pytest.mark.parametrize("number", [200, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_random_configurations_are_legal(settings, vit_b16, name, number):
    method = built(settings, f"method={name}", *(["method.sizes=[5,10]", "method.depths=[0.25,1.0]"] if name == "noah" else []))
    space, rng = method.subnets(vit_b16), Random(9)
    kinds = [len(options) for _, options in OPTIONS] * 48
    for _ in range(number):
        subnet = space.draw(rng)
        if name == "glora":
            assert len(subnet) == 240 and all(0 <= choice < kind for choice, kind in zip(subnet, kinds, strict=True))
        else:
            assert len(subnet) == 36 and set(subnet) <= {0, 5, 10}
            for start in (0, 12, 24):
                depth = sum(size > 0 for size in subnet[start : start + 12])
                assert depth in (3, 12) and all(subnet[start : start + depth])


def test_refused_with_a_reason(settings, attached):
    with pytest.raises(UserError, match="noah cannot be attached to this SwinTransformer: the method is defined for plain ViTs"):
        attached("swin", "method=noah")
    with pytest.raises(UserError, match="3 sizes, the backbone 4 blocks"):
        attached("vit", "method=noah", "method.subnet={vpt:[1,2,3],lora:1,adapter:1}")
    with pytest.raises(UserError, match=r"depths in \(0, 1\]"):
        built(settings, "method=noah", "method.depths=[2.0]")
