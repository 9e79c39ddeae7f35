"""What an adapter reads and what a head reads, against the equations of timm's blocks, on every layout and pooling."""

import pytest
import torch
from torch import nn

import karst_bench
from benchmarks.backbones import build, images_for
from karst_bench.adapt.model import TimmAdaptedModel
from karst_bench.errors import UserError

PRE = ("ViT, class token", "DINOv2, registers, layer scale", "EVA-02, rotary", "BEiT", "Swin", "Hiera")
POST = ("ViT, post-norm", "Swin V2")


class Probe(nn.Module):
    """Keeps what it is given and adds nothing."""

    def forward(self, t):
        self.seen = t
        return torch.zeros_like(t)


@torch.no_grad()
def by_hand(block, x, attn_out):
    """The stream and the sub-layer's input of the MLP half, from x and what left drop_path1."""
    stream = x + attn_out
    name = type(block).__name__
    return stream, (stream if "Post" in name or name == "SwinTransformerV2Block" else block.norm2(stream))


@pytest.mark.parametrize("label", PRE + POST)
@torch.no_grad()
def test_adapters_of_the_mlp_read_the_stream_the_norm_and_the_sum(label):
    net = build(label)
    block = (net.blocks if hasattr(net, "blocks") else net.layers[0].blocks)[0]
    seen = {}
    for key, module in {"block": block, "drop_path1": block.drop_path1, "drop_path2": block.drop_path2}.items():
        module.register_forward_hook(lambda _, args, out, key=key: seen.update({key: (args[0], out)}))
    net(images_for(label))
    stream, given = by_hand(block, seen["block"][0], seen["drop_path1"][1])
    added = seen["drop_path2"][1].reshape(stream.shape)
    expected = {"block": stream, "norm": given, "out": added, "sum": stream + added}
    torch.testing.assert_close(expected["sum"], seen["block"][1])
    model = TimmAdaptedModel(net)
    probes = {reads: Probe() for reads in expected}
    for reads, probe in probes.items():
        model.residual(0, "mlp", probe, reads=reads, position="after_drop_path")
    net(images_for(label))
    for reads, probe in probes.items():
        torch.testing.assert_close(probe.seen.reshape(stream.shape), expected[reads], msg=reads)


@pytest.mark.parametrize("label", ["ViT, class token", "ViT, post-norm", "Swin V2"])
@torch.no_grad()
def test_adapters_of_the_attention_read_what_enters_the_block(label):
    net = build(label)
    block = (net.blocks if hasattr(net, "blocks") else net.layers[0].blocks)[0]
    entered = []
    block.register_forward_pre_hook(lambda _, args: entered.append(args[0]))
    probe = Probe()
    TimmAdaptedModel(net).residual(0, "attn", probe, reads="block")
    net(images_for(label))
    assert torch.equal(probe.seen, entered[0])


def test_what_a_block_cannot_hand_over_is_refused():
    with pytest.raises(UserError, match="reads the tokens before attention"):
        TimmAdaptedModel(build("Hiera")).residual(0, "attn", Probe(), reads="norm")


POOLINGS = ("ViT, class token", "ViT, mean of patches", "ViT, mean and maximum", "ViT, attention pooling with a class token",
            "SigLIP, attention pooling", "DeiT, distilled", "BEiT", "DINOv3", "Perception Encoder")  # fmt: skip


def last_tokens(net, x):
    """What leaves the last block."""
    kept = []
    handle = net.blocks[-1].register_forward_hook(lambda _, args, out: kept.append(out))
    net(x)
    handle.remove()
    return kept[0]


@pytest.mark.parametrize("label", POOLINGS)
@torch.no_grad()
def test_dtl_reads_the_mean_patch_under_the_final_norm_whatever_the_model_pools(label):
    net, x = build(label), images_for(label)
    h = last_tokens(net, x)[:, net.num_prefix_tokens :].mean(1)
    norms = [norm for norm in (net.norm, getattr(net, "fc_norm", nn.Identity())) if not isinstance(norm, nn.Identity)]
    for norm in norms or [nn.Identity()]:
        h = norm(h)
    heads = [net.head] + ([net.head_dist] if hasattr(net, "head_dist") else [])
    expected = sum(head(h) for head in heads) / len(heads)
    assert torch.unique(expected, dim=0).shape == expected.shape
    torch.testing.assert_close(karst_bench.attach(net, "dtl").eval()(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("label", [name for name in POOLINGS if name not in ("BEiT", "DINOv3", "Perception Encoder")])
@torch.no_grad()
def test_lst_reads_what_the_model_pools_without_its_norm(label):
    net, x = build(label), images_for(label)
    karst_bench.attach(net, "lst", r=2).eval()
    side = last_tokens(net, x)  # U LN(s), which the hooks hand on behind the last block
    prefix = net.num_prefix_tokens
    if "attention pooling" in label:
        pooled = net.attn_pool(side[:, prefix:])
    elif net.global_pool == "token":
        pooled = side[:, 0]
    else:
        pooled = side[:, prefix:].mean(1)
        pooled = 0.5 * (pooled + side[:, prefix:].amax(1)) if net.global_pool == "avgmax" else pooled
    expected = net.head(pooled)
    if hasattr(net, "head_dist"):
        expected = (expected + net.head_dist(side[:, 1])) / 2
    torch.testing.assert_close(net(x), expected, atol=1e-5, rtol=1e-5)


def test_ssf_scales_the_final_norm_wherever_it_stands():
    for label, path in (("ViT, class token", "norm"), ("ViT, mean of patches", "fc_norm"), ("Hiera", "head.norm")):
        assert [s.path for s in TimmAdaptedModel(build(label)).sites("final_norm")] == [path]
