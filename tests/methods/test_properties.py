"""Any width, kernel, rank, head count and depth: the count is the closed form and merging changes nothing."""

from functools import wraps

import pytest
import timm
import torch
from hypothesis import given, settings, strategies
from torch.nn.functional import linear

from karst_bench.adapt.attach import attach_methods
from karst_bench.adapt.counts import counts
from karst_bench.adapt.merge import merge
from karst_bench.methods.adapter import Adapter
from karst_bench.methods.fact_tk import FacTTK
from karst_bench.methods.fact_tt import FacTTT
from karst_bench.methods.karst import QKV_MODES, SHARING, Karst
from karst_bench.methods.lora import LoRA
from karst_bench.methods.repadapter import RepAdapter
from karst_bench.methods.rst import GRANULARITIES, PLACES, RST
from karst_bench.methods.vera import VeRA
from karst_bench.nn.kronecker import KroneckerSum
from karst_bench.nn.lowrank import DroppedLowRank, LowRankProduct

few = settings(max_examples=8, deadline=None, derandomize=True)
small = strategies.integers(1, 4)


def seeded(test):
    """An example draws the same tensors whenever it is tried: hypothesis tries one that fails again."""

    @wraps(test)
    def run(**example):
        torch.manual_seed(0)
        test(**example)

    return run


@few
@given(N=small, m=small, r=small, chunks=strategies.sampled_from([1, 3]), height=small, width=small,
       shared=strategies.booleans())  # fmt: skip
@seeded
def test_kronecker_sum(N, m, r, chunks, height, width, shared):
    """The readable form, the factors and torch.kron in float64 are one matrix; B = 0 gives 0."""
    C = torch.nn.Parameter(torch.randn(1, m, m)) if shared else None
    update = KroneckerSum(chunks * height * m, width * m, N=N, m=m, r=r, sigma=0.3, init="gaussian", chunks=chunks, C=C)
    W0 = torch.zeros(chunks * height * m, width * m)
    assert not update.delta(W0).any()
    torch.nn.init.normal_(update.B)
    blocks = []
    for c in range(chunks):
        kernels = [torch.kron(update.C[0 if shared else n].double(), update.A[n, c].double() @ update.B[n].double())
                   for n in range(N)]  # fmt: skip
        blocks.append(0.3 * torch.stack(kernels).sum(0))
    assert torch.allclose(update.delta(W0).double(), torch.cat(blocks), atol=1e-5)
    assert torch.allclose(update.factors(W0).materialise().double(), torch.cat(blocks), atol=1e-5)
    expected = (1 if shared else N) * m * m + N * r * (chunks * height + width)
    assert sum(p.numel() for p in update.parameters()) == expected


@few
@given(d_out=small, d_in=small, r=small)
@seeded
def test_low_rank(d_out, d_in, r):
    update = LowRankProduct(d_out, d_in, r=r, s=0.7)
    torch.nn.init.normal_(update.B)
    x, W0 = torch.randn(5, d_in), torch.zeros(d_out, d_in)
    assert torch.allclose(DroppedLowRank(update).eval()(x), linear(x, update.delta(W0)), atol=1e-5)
    assert torch.allclose(update.factors(W0).materialise(), update.delta(W0), atol=1e-6)


def karst(N, m, r, mode, share):
    return Karst(name="karst", N=N, m=m, r=r, sigma="1/r", sites=["qkv", "proj", "fc1", "fc2", "reduction"], qkv_mode=mode,
                 share_c=share, train_norms=False, init="gaussian")  # fmt: skip


def vit(heads, depth, per_head):
    return timm.create_model("vit_tiny_patch16_224", img_size=16, patch_size=8, embed_dim=heads * per_head, depth=depth,
                             num_heads=heads, num_classes=3)  # fmt: skip


def swin(heads, stages):
    return timm.create_model("swin_tiny_patch4_window7_224", img_size=16, patch_size=2, window_size=2, embed_dim=8 * heads,
                             depths=(1,) * stages, num_heads=[heads * 2**s for s in range(stages)], num_classes=3)  # fmt: skip


@torch.no_grad()
def check(net, methods):
    """Counts as it says, merges without a trace, on weights moved off their start."""
    net.eval()
    model = attach_methods(net, methods)
    expected = sum(method.expected_params(model.spec) for method in methods)
    assert counts(net, methods)["trainable_params"] == expected
    for p in model.trained().values():
        p.add_(0.05 * torch.randn_like(p))
    x = torch.randn(2, 3, 16, 16)
    adapted = net(x)
    if not model.unmergeable:
        assert torch.allclose(merge(net)(x), adapted, atol=1e-4, rtol=1e-4)
    assert adapted.isfinite().all()


@pytest.mark.filterwarnings("ignore:share_c")
@few
@given(heads=small, depth=strategies.integers(1, 3), N=small, m=strategies.sampled_from([1, 2, 4, 8]), r=small,
       mode=strategies.sampled_from(sorted(QKV_MODES)), share=strategies.sampled_from(SHARING))  # fmt: skip
@seeded
def test_karst_on_any_vit(heads, depth, N, m, r, mode, share):
    check(vit(heads, depth, 8), [karst(N, m, r, mode, share)])


@few
@given(heads=strategies.integers(1, 2), stages=strategies.integers(1, 3), ranks=strategies.lists(small, min_size=3, max_size=3),
       places=strategies.sets(strategies.sampled_from(sorted(PLACES)), min_size=1),
       granularity=strategies.sampled_from(GRANULARITIES))  # fmt: skip
@seeded
def test_staged_karst_with_any_rescaling_on_any_swin(heads, stages, ranks, places, granularity):
    rst = RST(name="rst", sites=sorted(places), granularity=granularity)
    check(swin(heads, stages), [karst(2, 4, {"swin": ranks[:stages]}, "split_A_shared_B", "none"), rst])


@few
@given(heads=small, depth=strategies.integers(1, 3), r=small, family=strategies.sampled_from(["vit", "swin"]),
       which=strategies.sampled_from(["tk", "tt", "lora", "vera", "rep", "adapter"]))  # fmt: skip
@seeded
def test_the_others_on_any_backbone(heads, depth, r, family, which):
    method = {
        "tk": lambda: FacTTK(name="fact_tk", r=r, s=0.5, dropout=0.1),
        "tt": lambda: FacTTT(name="fact_tt", r=r, s=0.5, dropout=0.1),
        "lora": lambda: LoRA(name="lora", r=r, s=0.5, dropout=0.1, sites="all"),
        "vera": lambda: VeRA(name="vera", r=r, start=0.1, key=1),
        "rep": lambda: RepAdapter(name="repadapter", h=2 * r, s=0.5, groups=2, dropout=0.1, biases=True),
        "adapter": lambda: Adapter(name="a", h=r, act="gelu", dropout=0.1, halves=["attn", "mlp"], position="inside"),
    }[which]()
    check(vit(heads, depth, 8) if family == "vit" else swin(1 + heads % 2, depth), [method])
