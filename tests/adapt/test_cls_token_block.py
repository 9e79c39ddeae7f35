"""The class-token-only last block: same logits, same gradients, same keys; refused where other tokens matter."""

import copy

import pytest
import timm
import torch

from karst_bench.adapt.attach import attach_methods
from karst_bench.adapt.merge import merge, unmerge
from karst_bench.adapt.speed.cls_token_block import ClassTokenBlock, all_tokens, class_token_only
from karst_bench.methods.karst import Karst
from karst_bench.methods.rst import RST
from karst_bench.methods.ssf import SSF
from karst_bench.methods.vpt_deep import VPTDeep


def vit(**arguments):
    torch.manual_seed(0)
    shape = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 3}
    return timm.create_model("vit_tiny_patch16_224", num_classes=5, **shape, **arguments).double()


def karst():
    return [
        Karst(
            name="karst", N=2, m=4, r=2, sigma=1.0, sites=["qkv", "proj", "fc1", "fc2"], qkv_mode="split_A_shared_B",
            share_c="none", train_norms=True, init="gaussian",
        ),
        RST(name="rst", sites=["proj", "fc2"], granularity="channel"),
    ]  # fmt: skip


def attached(methods=karst, **arguments):
    net = vit(**arguments)
    model = attach_methods(net, methods())
    net.double()
    for p in model.trained().values():
        torch.nn.init.normal_(p, std=0.1)
    return net


@pytest.mark.parametrize("fused", [True, False])
def test_same_logits_gradients_and_keys(fused):
    whole = attached(drop_path_rate=0.0)
    for block in whole.blocks:
        block.attn.fused_attn = fused
    short = copy.deepcopy(whole)
    assert class_token_only(short) is None
    assert short.state_dict().keys() == whole.state_dict().keys()
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    logits = [net(x) for net in (whole, short)]
    torch.testing.assert_close(*logits, rtol=1e-12, atol=1e-12)
    for out in logits:
        out.square().sum().backward()
    mine = dict(short.named_parameters())
    for name, p in whole.named_parameters():
        if p.requires_grad:
            torch.testing.assert_close(mine[name].grad, p.grad, rtol=1e-10, atol=1e-10)


def ssf():
    return [SSF(name="ssf", std=0.02)]


@pytest.mark.parametrize("methods", [karst, ssf])
def test_merging_reaches_the_short_block_and_it_can_be_undone(methods):
    """SSF stands on the block's own norms too, which merging must put into the block that computes them."""
    net = attached(methods).eval()
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        expected = net(x)
        assert class_token_only(net) is None
        assert isinstance(net.blocks[-1], ClassTokenBlock)
        merge(net)
        assert net.state_dict().keys() == vit().state_dict().keys()
        torch.testing.assert_close(net(x), expected, rtol=1e-10, atol=1e-10)
        all_tokens(net)
        assert net.forward_features(x).shape[1] == 17
        torch.testing.assert_close(net(x), expected, rtol=1e-10, atol=1e-10)
        unmerge(net)
        torch.testing.assert_close(net(x), expected, rtol=1e-12, atol=1e-12)


def test_drop_path_draws_the_same_numbers():
    whole = attached(drop_path_rate=0.5).train()
    short = copy.deepcopy(whole)
    assert class_token_only(short) is None
    assert short.blocks[-1].training
    x = torch.randn(8, 3, 32, 32, dtype=torch.float64)
    logits = []
    for net in (whole, short):
        torch.manual_seed(1)
        logits.append(net(x))
    torch.testing.assert_close(*logits, rtol=1e-12, atol=1e-12)


def test_refused_where_other_tokens_matter():
    block_hooks = vit()
    attach_methods(block_hooks, [VPTDeep(name="vpt_deep", p=2, dropout=0.0)])
    swin = timm.create_model("swin_tiny_patch4_window7_224", img_size=32, patch_size=2, window_size=4, embed_dim=8,
                             depths=[1, 1], num_heads=[1, 2], num_classes=5)  # fmt: skip
    for net, part in (
        (block_hooks, "HookedBlock"), (vit(global_pool="avg"), "more than the class token"), (swin, "pools all"),
        (vit(proj_drop_rate=0.1), "dropout"),
    ):  # fmt: skip
        last = net.blocks[-1] if hasattr(net, "blocks") else None
        assert part in class_token_only(net)
        assert last is None or net.blocks[-1] is last
