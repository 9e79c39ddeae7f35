"""What a second run of a process may share, what it must not; recompute and cached features."""

import contextlib

import pytest
import timm
import torch
from safetensors.torch import save_file
from small import SWIN, VIT, Images
from torch import nn

from karst_bench.adapt.attach import attach_methods
from karst_bench.adapt.speed.activation_recompute import recompute
from karst_bench.adapt.speed.frozen_features import FeatureBatches, split_head
from karst_bench.adapt.speed.shared_backbone import SharedBackbones
from karst_bench.methods.bitfit import BitFit
from karst_bench.methods.full import Full
from karst_bench.methods.karst import Karst
from karst_bench.methods.linear import Linear
from karst_bench.methods.rst import RST


@pytest.fixture(params=[VIT, SWIN], ids=["vit", "swin"])
def stored(request, tmp_path):
    torch.manual_seed(0)
    net = timm.create_model(request.param["timm_name"], num_classes=4, **request.param["model_args"]).eval()
    path = tmp_path / "backbone.safetensors"
    save_file(net.state_dict(), path)
    return request.param, path, net


def karst():
    return Karst(
        name="karst", N=2, m=4, r=2, sigma=1.0, sites=["qkv", "proj", "fc1", "fc2"], qkv_mode="split_A_shared_B",
        share_c="none", train_norms=False, init="gaussian",
    )  # fmt: skip


METHODS = {
    "full": lambda: [Full(name="full")],
    "bitfit": lambda: [BitFit(name="bitfit", rel_pos_bias=True)],
    "karst": lambda: [karst(), RST(name="rst", sites=["proj", "fc2"], granularity="channel")],
}


@pytest.mark.parametrize("method", list(METHODS))
def test_runs_share_the_backbone_and_what_trains_does_not_leak(stored, method):
    backbone, path, reference = stored
    pool = SharedBackbones()
    x = torch.randn(2, 3, 32, 32)
    logits = []
    for drop_path in (0.1, 0.0, 0.1):
        torch.manual_seed(7)
        net = pool.build(backbone, classes=5, weights=path, drop_path=drop_path).eval()
        logits.append(net(x).detach())
        attach_methods(net, METHODS[method]())
        pool.own_trained(net)
        # the fused optimiser leaves no trace in the tensors' version counters
        optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=0.1, fused=True)
        net(x).square().sum().backward()
        optimizer.step()
        assert not torch.equal(net(x), logits[-1])
    assert torch.equal(logits[0], logits[1])
    assert torch.equal(logits[0], logits[2])
    assert len(pool._stored) == 1
    fresh = pool.build(backbone, classes=5, weights=path, drop_path=0.0).eval()
    for name, tensor in fresh.state_dict().items():
        if tensor.shape == reference.state_dict()[name].shape:
            assert torch.equal(tensor, reference.state_dict()[name]), name


def test_a_leak_is_seen_and_mended(stored):
    backbone, path, reference = stored
    pool = SharedBackbones()
    net = pool.build(backbone, classes=5, weights=path, drop_path=0.0)
    net.patch_embed.proj.weight.data.add_(1.0)  # nobody called own_trained
    again = pool.build(backbone, classes=5, weights=path, drop_path=0.0)
    assert torch.equal(again.patch_embed.proj.weight, reference.patch_embed.proj.weight)


@pytest.mark.parametrize("autocast", [False, True])
def test_recompute_is_exact_and_keeps_less(autocast):
    torch.manual_seed(0)
    net = timm.create_model(VIT["timm_name"], num_classes=4, **VIT["model_args"]).train()
    model = attach_methods(net, METHODS["karst"]())
    for p in model.trained().values():
        torch.nn.init.normal_(p, std=0.1)
    x = torch.randn(4, 3, 32, 32)

    def step():
        kept = {}

        def keep(t):
            kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t)
        with hooks, torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            y = net(x)
        y.float().square().sum().backward()
        grads = [p.grad.clone() for p in net.parameters() if p.grad is not None]
        net.zero_grad()
        return grads, sum(kept.values())

    expected, plain = step()
    handles = recompute(net)
    grads, less = step()
    assert all(torch.equal(a, b) for a, b in zip(grads, expected, strict=True))
    assert less < 0.9 * plain
    for handle in handles:
        handle.remove()
    assert step()[1] == plain


@pytest.mark.parametrize("backbone", [VIT, SWIN], ids=["vit", "swin"])
def test_linear_probe_takes_one_pass_over_the_images(backbone):
    torch.manual_seed(0)
    net = timm.create_model(backbone["timm_name"], num_classes=4, **backbone["model_args"], drop_path_rate=0.2).eval()
    attach_methods(net, [Linear(name="linear")])
    frozen, head = split_head(net, backbone_mode="eval")
    images = Images()
    features = FeatureBatches(frozen, images, batch=5, autocast=contextlib.nullcontext())
    orders = [torch.Generator().manual_seed(3) for _ in range(2)]
    for _ in range(2):
        assert len(features) == len(images)
        pairs = zip(features.epoch(orders[0]), list(images.epoch(orders[1])), strict=True)
        for (z, y), (x, labels) in pairs:
            assert torch.equal(y, labels)
            torch.testing.assert_close(head(z), net(x), rtol=1e-5, atol=1e-5)
    assert len(list(features.epoch(orders[0], skip=2))) == 1
    assert images.passes == 3  # one of them by the features


@pytest.mark.parametrize("room", [None, 0], ids=["stored", "passed anew"])
def test_features_leave_out_the_images_that_an_epoch_leaves_out(room):
    """With `every`, all images are stored, and each epoch ends where that of the images does."""

    class Dropping(Images):
        def epoch(self, generator, skip=0):
            return (pair for pair in super().epoch(generator, skip) if len(pair[1]) == 5)

        def __len__(self):
            return 2

    images, every = Dropping(), Images()
    images.x = every.x
    features = FeatureBatches(nn.Flatten(), images, batch=5, autocast=contextlib.nullcontext(), room=room, every=every)
    orders = [torch.Generator().manual_seed(3) for _ in range(2)]
    for _ in range(2):
        assert len(features) == 2
        for (z, y), (x, labels) in zip(features.epoch(orders[0]), list(images.epoch(orders[1])), strict=True):
            assert torch.equal(y, labels) and torch.equal(z, x.flatten(1))


def test_features_stand_for_images_only_where_the_backbone_is_frozen_and_not_random():
    def net(**arguments):
        return timm.create_model(VIT["timm_name"], num_classes=4, **VIT["model_args"], **arguments)

    adapted, noisy, plain = net(), net(drop_path_rate=0.2), net()
    attach_methods(adapted, METHODS["karst"]())
    for other in (noisy, plain):
        attach_methods(other, [Linear(name="linear")])
    assert split_head(adapted, backbone_mode="eval") is None
    assert split_head(noisy, backbone_mode="train") is None
    assert split_head(noisy, backbone_mode="eval") is not None
    assert split_head(plain, backbone_mode="train") is not None
