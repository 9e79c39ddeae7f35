"""Sparse-Tuning: how many tokens go where, what that saves, and the equation token by token."""

import math

import pytest
import timm
import torch

from karst_bench.adapt.attach import attach_methods
from karst_bench.adapt.counts import forward_macs
from karst_bench.errors import UserError
from karst_bench.methods.build import build_methods
from karst_bench.methods.sparse_tuning import selected


def on_vit_b(settings, *overrides):
    with torch.device("meta"):
        net = timm.create_model("vit_base_patch16_224", num_classes=10).eval()
        macs = forward_macs(net, (224, 224))
        attach_methods(net, build_methods(settings("method=sparse_tuning", *overrides)))
    return net, macs


def adapter_macs(net, tokens):
    """Multiply-adds of the twelve adapters: their weights' entries for every token that they read."""
    adapters = net.karst.block_hooks.hooks[0].adapters
    return sum(n * sum(p.numel() for p in adapter.parameters() if p.ndim > 1) for adapter, n in zip(adapters, tokens, strict=True))


@torch.no_grad()
@pytest.mark.parametrize(("keep", "counts", "share"), [(0.7, (197, 140, 100, 72), 66.1), (0.9, (197, 179, 163, 148), 87.7)])
def test_tokens_and_multiply_adds(settings, keep, counts, share):
    """Final tokens and shares are the sheet's: 72 and 148 of 197, 66.1 and 87.7 % of the backbone's multiply-adds."""
    net, macs = on_vit_b(settings, f"method.keep={keep}")
    tokens = []
    for block in net.blocks:
        block.base.mlp.register_forward_pre_hook(lambda _, args: tokens.append(args[0].shape[1]))
    net(torch.zeros(1, 3, 224, 224, device="meta"))
    assert tuple(tokens[::3]) == counts == tuple(tokens[2::3])
    assert 100 * (forward_macs(net, (224, 224)) - adapter_macs(net, tokens[:12])) / macs == pytest.approx(share, abs=0.1)


@torch.no_grad()
def test_selection_token_by_token():
    h, a = torch.randn(2, 8, 5), torch.rand(2, 8)
    got = selected(h, a, keep=0.5, prefix=1)
    assert got.shape == (2, 1 + math.ceil(3.5) + 1, 5)
    for b in range(2):
        order = sorted(range(1, 8), key=lambda n: -a[b, n])
        rows = [h[b, 0], *(h[b, n] for n in order[:4]), sum(a[b, n] * h[b, n] for n in order[4:])]
        assert torch.allclose(got[b], torch.stack(rows), atol=1e-6)


@torch.no_grad()
def test_equation(attached, tiny, images, shake):
    """Four blocks written out: cuts in blocks 1, 2 and 3, so that every block ends a quarter."""
    case, net = shake(attached("vit", "method=sparse_tuning", "method.keep=0.5")), tiny("vit")
    adapters = case.net.karst.block_hooks.hooks[0].adapters
    embedded = h = net._pos_embed(net.patch_embed(images))
    for i, (block, adapter) in enumerate(zip(net.blocks, adapters, strict=True)):
        x = block.norm1(h)
        q, k, _ = block.attn.qkv(x).reshape(4, x.shape[1], 3, 3, 16).permute(2, 0, 3, 1, 4)
        attention = (q[:, :, :1] @ k.mT / 4).softmax(-1)[:, :, 0].mean(1)
        h = h + block.attn(x)
        if i:
            h = selected(h, attention, keep=0.5, prefix=1)
        h0 = adapter.D1(h).relu()
        u = adapter.D2(h0)
        da = adapter.U2(adapter.D3(torch.cat([u, adapter.U1(u)], -1)) + h0)
        h = h + block.mlp(block.norm2(h)) + 2 * da + (embedded if i == 0 else 0)
    assert torch.allclose(case.net(images), net.head(net.norm(h)[:, 0]), atol=1e-4)


def test_no_swin(attached):
    with pytest.raises(UserError, match="this SwinTransformer: the method reads the class token"):
        attached("swin", "method=sparse_tuning")
