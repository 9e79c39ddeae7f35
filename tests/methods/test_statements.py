"""Single statements of the methods' texts that no other test would miss."""

import numpy as np
import pytest
import timm
import torch

from karst_bench.adapt.attach import attach_methods
from karst_bench.adapt.timm_sites import model_spec
from karst_bench.config.option_files import options
from karst_bench.methods.build import build_method
from karst_bench.methods.heat import weight_importance
from karst_bench.methods.snell import Snell
from karst_bench.nn.kronecker import KroneckerSum
from karst_bench.nn.model_spec import ModelSpec
from karst_bench.report.suite import method_file


def built(name, **values):
    """A method of its file with other values, no configuration composed."""
    return build_method("method", {k: v for k, v in method_file(name).items() if k != "suites"} | values)


@pytest.mark.parametrize("block", ["Block", "ParallelScalingBlock"])
def test_bitfit_trains_every_bias_whatever_timm_calls_it(block):
    """All vectors but the norms' weights; a block with one projection for all, of which q, k and v have no bias, keeps its MLP's
    apart."""
    net = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=16, embed_dim=48, depth=1, num_heads=3, num_classes=5,
                            qkv_bias=False, block_fn=getattr(timm.models.vision_transformer, block))  # fmt: skip
    norms = {id(module.weight) for module in net.modules() if isinstance(module, torch.nn.LayerNorm)}
    wanted = {name for name, p in net.named_parameters() if p.ndim == 1 and id(p) not in norms} - {"head.bias"}
    model = attach_methods(net, [built("bitfit")])
    assert set(model.own_trained()) - {"head.weight", "head.bias"} == wanted and any("mlp" in name for name in wanted)


def test_full_fine_tuning_decays_no_table(tiny):
    """The position embedding and the class token of a ViT, the position tables of a Swin: learned values, no weights."""
    for family, ends in (("vit", ("pos_embed", "cls_token")), ("swin", ("relative_position_bias_table",))):
        named = list(tiny(family).named_parameters())
        (group,) = built("full").param_groups(named)
        assert group["weight_decay"] == 0.0
        assert {id(p) for p in group["params"]} == {id(p) for name, p in named if name.endswith(ends)}


def test_snell_decays_the_points_and_not_the_class_token(tiny):
    net, method = tiny("vit"), built("snell")
    model = attach_methods(net, [method])
    (group,) = method.param_groups([(name, p) for name, p in net.named_parameters() if p.requires_grad])
    assert group["weight_decay"] == 0.0 and [id(p) for p in group["params"]] == [id(net.cls_token)]
    assert net.cls_token.requires_grad and len(model.trained()) > 1


@pytest.mark.parametrize("rho", [0.1, 0.5, 0.9, 0.99])
def test_snell_keeps_what_lies_above_numpys_quantile(tiny, rho):
    """Of as many distinct numbers as a weight has, those greater than their rho-quantile."""
    for site in model_spec(tiny("vit")).having("q", "fc1"):
        values = np.random.default_rng(0).permutation(site.d_in * site.d_out)
        assert Snell._kept(built("snell", rho=rho), site) == int((values > np.quantile(values, rho)).sum())


def test_heats_weight_importance_is_the_size_of_a_sum():
    """Two heads of one row each in q, k and v: the products of a head cancel or add up before the size is taken."""
    weight = torch.ones(6, 2)
    gradient = torch.tensor([[1.0, 2.0], [3.0, 0.0], [-2.0, -1.0], [0.0, 3.0], [0.5, 0.0], [0.0, 1.0]])  # q0 q1 k0 k1 v0 v1
    assert weight_importance(weight, gradient, heads=2).tolist() == [0.5, 7.0]


@pytest.mark.parametrize(("masked", "kept"), [(0.0, 3), (0.05, 2), (0.4, 2), (0.67, 1), (0.99, 1)])
def test_heat_leaves_out_one_head_at_least_and_never_all(masked, kept):
    importance = torch.tensor([0.5, 3.0, 0.1], dtype=torch.float64)
    assert built("heat", masked=masked)._kept(importance) == sorted(importance.argsort().tolist()[3 - kept :])


def test_spt_trains_a_vector_or_a_module_from_the_very_share_on():
    """At least 1/beta of 20 entries, beta 4: 5; at least 1/alpha of a module's 30 scalars, alpha 2: 15, below it entry by entry."""
    method = built("spt_lora", alpha=2.0, beta=4.0)
    assert [method._cost(count, 20, None) for count in (4, 5, 6)] == [0, 20, 20]
    assert [method._cost(count, 500, 30) for count in (0, 14, 15, 16)] == [0, 14, 30, 30]


def test_ssf_starts_around_the_identity(tiny):
    """gamma ~ N(1, std), beta ~ N(0, std) over all sites: the mean within five deviations of its own, the deviation within 5 %."""
    model = attach_methods(tiny("vit"), [built("ssf", std=0.1)])
    for part, centre in (("scale", 1.0), ("shift", 0.0)):
        values = torch.cat([getattr(layer.after[0], part).detach() for layer in model.layers.values()])
        assert abs(float(values.mean()) - centre) < 5 * 0.1 / len(values) ** 0.5
        assert float(values.std()) == pytest.approx(0.1, rel=0.05)


def test_the_backbone_rests_where_the_methods_papers_let_it():
    """A probe and LST on frozen features, VPT's encoder: without dropout and drop-path; all others train in train mode."""
    own = {name for name in options("method") if "_target_" in method_file(name)}
    resting = {name for name in own if built(name).backbone_mode == "eval"}
    assert resting == {"linear", "linear_sgd", "lst", "vpt_deep", "vpt_shallow"}


def test_dtl_feeds_back_into_the_papers_blocks():
    """ViT-B: history in all 12 blocks, feedback from the seventh on; Swin-B: history in blocks 4..23, feedback from 14."""
    vit = ModelSpec("vit", 12, (768,) * 12, (12,) * 12, (0,) * 12, 16, (14, 14), 1, 768, 0, (), ())
    stages = (0,) * 2 + (1,) * 2 + (2,) * 18 + (3,) * 2
    swin = ModelSpec("swin", 24, tuple(128 * 2**s for s in stages), (4,) * 24, stages, 4, (56, 56), 0, 128, 0, (), ())
    method = built("dtl")
    assert (method._feedback(vit), method._history(vit)) == (range(6, 12), list(range(12)))
    assert (method._feedback(swin), method._history(swin)) == (range(14, 24), list(range(4, 24)))


def test_karsts_code_scales_by_one_over_its_rank(tiny):
    model = attach_methods(tiny("vit"), [built("karst_code", r=4, m=4, sigma="1/r")])
    updates = [part for part in model.net.modules() if isinstance(part, KroneckerSum)]
    assert updates and {update.sigma for update in updates} == {0.25}


def test_noahs_depths_are_the_nearest_numbers_of_blocks(tiny):
    """0.2, 0.4, 0.65 and all of four blocks: 0.8 -> 1, 1.6 -> 2, 2.6 -> 3, 4."""
    assert built("noah", depths=[0.2, 0.4, 0.65, 1.0]).subnets(model_spec(tiny("vit"))).depths == [1, 2, 3, 4]
