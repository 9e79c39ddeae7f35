"""Two methods on one backbone, a re-scaling on any method, and what is refused with a reason."""

import warnings

import pytest
import torch

from karst_bench.adapt.counts import counts, site_rows
from karst_bench.adapt.merge import merge, mergeable
from karst_bench.config.compose import compose
from karst_bench.errors import UserError
from karst_bench.methods.build import build_methods


@pytest.mark.parametrize("family", ["vit", "swin"])
def test_lora_and_prompts_are_both_there(attached, images, train, family):
    both = attached(family, "method=lora", "also=vpt_deep")
    alone = [attached(family, f"method={name}") for name in ("lora", "vpt_deep")]
    names = [set(case.model.trained()) for case in alone]
    assert len(both.model.trained()) == len(names[0]) + len(names[1])
    expected = sum(method.expected_params(both.model.spec) for method in both.methods)
    assert counts(both.net, both.methods)["trainable_params"] == expected
    before = {name: p.detach().clone() for name, p in both.model.trained().items()}
    losses = train(both, images, steps=6)
    assert all(not torch.equal(p, before[name]) for name, p in both.model.trained().items())
    assert losses[-1] < losses[0]


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "extra"),
    [("fact_tk", "rst"), ("fact_tk", "rst_scalar"), ("lora", "rst_all"), ("ssf", "rst_scale"), ("ssf", "rst_all"),
     ("adapter_noah", "rst_scalar"), ("vpt_deep", "rst"), ("bitfit", "rst_scale"), ("dtl_plus", "rst_all"), ("linear", "rst"),
     ("vera", "rst_scalar")],
)  # fmt: skip
def test_rescaling_on_anything(attached, images, shake, name, extra):
    """The re-scaling starts as the identity on every method, and merges wherever the method does."""
    alone = attached("vit", f"method={name}", "extra=none")
    case = attached("vit", f"method={name}", f"extra={extra}")
    assert torch.allclose(case.net(images), alone.net(images), atol=1e-5)
    added = counts(case.net, case.methods)["trainable_params"] - counts(alone.net, alone.methods)["trainable_params"]
    assert added == case.methods[-1].expected_params(case.model.spec)
    assert mergeable(case.net) == mergeable(alone.net)
    if mergeable(case.net):
        adapted = shake(case).net(images)
        assert torch.allclose(merge(case.net)(images), adapted, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("pair", [("karst", "lora"), ("fact_tk", "ssf"), ("ka", "bitfit"), ("repadapter", "vera")])
def test_pairs_merge(attached, images, shake, pair):
    """Changes of two methods on one layer see the frozen weight, not each other, merged or not."""
    case = shake(attached("swin", f"method={pair[0]}", f"also={pair[1]}", "extra=rst_scalar"))
    adapted = case.net(images)
    assert torch.allclose(merge(case.net)(images), adapted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("family", "overrides", "reason"),
    [
        ("swin", ["method=vpt_shallow"], "to this SwinTransformer: the method is defined for plain ViTs"),
        ("vit", ["method=karst_swin_staged"], "names no rank for vit"),
        ("vit", ["method=vpt_deep", "also=dtl"], "one changes the token sequence"),
        ("vit", ["method=convpass", "also=vpt_shallow"], "one changes the token sequence"),
        ("vit", ["method=vpt_deep", "also=vpt_shallow"], "one changes the token sequence"),
        ("vit", ["method=full", "also=lora"], "leaves nothing frozen"),
        ("vit", ["method=fact_tk", "also=fact_tt"], "share a module"),
        ("vit", ["method=karst", "method.m=7"], "does not divide the widths"),
        ("swin", ["method=karst", "method.r=[2,4]"], "gives 2 ranks, this swin has 4 stages"),
        ("vit", ["method=karst", "method.qkv_mode=both"], "use qkv_mode of"),
        ("vit", ["method=karst", "method.sigma=1/N"], "a number or 1/r for sigma"),
        ("vit", ["method=karst", "method.init=normal"], "use init of gaussian, kaiming_uniform"),
        ("vit", ["method=lora", "method.sites=mlp"], "use one of qv, qkv_fused, all"),
        ("vit", ["method=adapter_noah", "method.act=tanh"], "use one of relu"),
        ("vit", ["method=repadapter", "method.groups=5"], "groups=1 always does"),
        ("vit", ["method=karst", "extra.sites=[norm1]"], "unknown for RST"),
    ],
)
def test_refused_with_a_reason(attached, family, overrides, reason):
    with pytest.raises(UserError, match=reason.replace("(", r"\(")):
        attached(family, *overrides)


@pytest.mark.parametrize("word", ["method=ssf method.std=0", "method=noah method.p_mutate=0", "method=karst method.sigma=0"])
def test_a_whole_number_may_stand_for_one_with_decimals(settings, word):
    """0 there is no count of nothing, which a count of 0 is refused as."""
    key = word.rpartition(".")[2].partition("=")[0]
    assert repr(getattr(build_methods(settings(*word.split()))[0], key)) == "0.0"


def test_void_kernels_are_warned_of(settings):
    with pytest.warns(UserWarning, match="makes N void"):
        build_methods(settings("method=ka", "method.share_c=kernels"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build_methods(settings("method=ka", "method.share_c=kernels", "method.N=1"))
        build_methods(settings("method=karst_block_c"))


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:share_c")
@pytest.mark.parametrize(
    "overrides",
    [["method.qkv_mode=fused"], ["method.qkv_mode=split_all"], ["method.qkv_mode=qv"], ["method.share_c=block"],
     ["method.share_c=kernels"], ["method.share_c=kernels", "method.qkv_mode=qv"],
     ["method.train_norms=true"], ["method.sites=[qkv,reduction]"], ["method.r=[1,2,3,4]"]],
    ids=str,
)  # fmt: skip
def test_karst_axes(attached, images, shake, overrides):
    """Every axis counts, runs and merges."""
    case = shake(attached("swin", "method=karst", *overrides))
    expected = sum(method.expected_params(case.model.spec) for method in case.methods)
    assert counts(case.net, case.methods)["trainable_params"] == expected
    adapted = case.net(images)
    assert torch.allclose(merge(case.net)(images), adapted, atol=1e-4, rtol=1e-4)


def test_linear_sgd_sets_its_optimiser_and_nothing_of_the_dataset():
    plain, sgd = (compose([f"method={name}"]).recipe for name in ("linear", "linear_sgd"))
    changed = {key for key in plain if plain[key] != sgd[key]}
    assert changed <= {"optimiser", "lr", "wd", "momentum"}
    assert sgd.optimiser == "sgd" and sgd.momentum == 0.9
    assert compose(["method=linear_sgd", "recipe.lr=2.5"]).recipe.lr == 2.5


def test_a_variant_changes_only_what_it_names():
    base = compose(["method=karst"]).method
    code = compose(["method=karst_code"]).method
    assert {key for key in base if base[key] != code[key]} == {"name", "about", "r", "sigma", "init"}
    assert compose(["method=karst_code", "method.r=4"]).method.r == 4
    assert compose(["method=karst", "extra=none"]).extra.name == "none"


def test_shared_parameters_are_listed_once(attached):
    """FacT's ends and core stand at 16 sites and count once."""
    case = attached("vit", "method=fact_tk")
    assert len({id(p) for p in case.model.trained().values()}) == len(case.model.trained()) == 4
    rows = site_rows(case.net)
    assert sum(row["params"] for row in rows) == counts(case.net, case.methods)["trainable_params"]
