"""What new parameters are drawn from: each distribution beside torch's own initialiser of the name that the papers give."""

import math

import pytest
import torch
from torch import nn

from karst_bench.methods.convpass import Bypass
from karst_bench.methods.fact_tk import TuckerCore
from karst_bench.methods.fact_tt import TrainUpdate
from karst_bench.methods.repadapter import Reparameterised
from karst_bench.methods.vera import VeRA
from karst_bench.nn.binary import BinaryLowRank
from karst_bench.nn.bottleneck import Bottleneck
from karst_bench.nn.dense_adapter import DenseAdapter
from karst_bench.nn.fact import SharedFactors
from karst_bench.nn.glora import GLoRADelta
from karst_bench.nn.kernel_delta import KernelDelta
from karst_bench.nn.kronecker import KroneckerSum
from karst_bench.nn.lowrank import LowRankProduct
from karst_bench.nn.prompts import Prompts
from karst_bench.nn.sliced import SlicedBottleneck, SlicedLoRA

D = 192


def uniform(bound):
    return lambda t: nn.init.uniform_(t, -bound, bound)


def xavier(t):
    return nn.init.xavier_uniform_(t)


def linear(t):
    """nn.Linear's own weight."""
    return nn.init.kaiming_uniform_(t, a=math.sqrt(5))


def kaiming(t):
    return nn.init.kaiming_uniform_(t)


def normal(std, cut=math.inf):
    return lambda t: nn.init.trunc_normal_(t, std=std, a=-cut, b=cut)


def bottleneck(init):
    return Bottleneck(D, h=48, s=1.0, act="gelu", dropout=0.0, init=init)


def kronecker(init):
    return KroneckerSum(3 * D, D, N=4, m=24, r=16, sigma=1.0, init=init, chunks=3)


def bypass():
    return Bypass(D, h=32, s=1.0, dropout=0.0, init="xavier", prefix=1, grid=lambda: (2, 2))


SHARED = SharedFactors(D, 32)
# (module, its parameter, what it is drawn as); C and A of KARST by their blocks: a (m, m) and a (rows, r) whose fan-in is rows
STARTS = {
    "LoRA A": (lambda: LowRankProduct(D, D, r=32, s=1.0).A, linear),
    "KARST C, its code": (lambda: kronecker("kaiming_uniform").C.flatten(0, 1), linear),
    "KARST C, the paper": (lambda: kronecker("gaussian").C, normal(1 / math.sqrt(3 * 24))),
    "KARST A": (lambda: kronecker("kaiming_uniform").A, uniform(1 / math.sqrt(D / 24))),
    "FacT U": (lambda: SHARED.U, linear),
    "FacT-TT G": (lambda: TrainUpdate(SHARED, outs=1, ins=4, r=32, s=1.0, dropout=0.0).G, linear),
    "FacT-TK C": (lambda: TuckerCore(24, 96).C, xavier),
    "FacT-TK P": (lambda: TuckerCore(24, 200).P, xavier),
    "VeRA A": (lambda: VeRA(name="vera", r=64, start=0.1, key=3)._random(64, D), kaiming),
    "Bi-LoRA U": (lambda: BinaryLowRank(D, D, r=32, s=1.0, rows=torch.arange(D)).U, normal(1e-3, 2e-3)),
    "Bi-LoRA D": (lambda: BinaryLowRank(D, D, r=32, s=1.0, rows=torch.arange(D)).D, linear),
    "GLoRA A_u": (lambda: GLoRADelta(D, D, r=32).A_u, xavier),
    "GLoRA C_u": (lambda: torch.cat([GLoRADelta(4, 4, r=64).C_u for _ in range(40)], 1), uniform(math.sqrt(6 / 65))),
    "SNELL P": (lambda: KernelDelta(D, D, r=32, kept=None).P, linear),
    "VPT": (lambda: Prompts(30, D, patch=16, embed_dim=D, dropout=0.0).tokens, uniform(math.sqrt(6 / (3 * 16 * 16 + D)))),
    "RepAdapter D": (lambda: Reparameterised(D, h=48, s=1.0, groups=2, dropout=0.0, biases=True).D, xavier),
    "Convpass D": (lambda: bypass().down.weight, xavier),
    "Convpass conv": (lambda: bypass().conv.weight, xavier),
    "adapter": (lambda: bottleneck("near_identity").down.weight, linear),
    "NOAH's adapter, down": (lambda: bottleneck("trunc_normal").down.weight, normal(0.02)),
    "NOAH's adapter, up": (lambda: bottleneck("trunc_normal").up.weight, normal(0.02)),
    "Houlsby's, down": (lambda: bottleneck("houlsby").down.weight, normal(0.01, 0.02)),
    "Houlsby's, up": (lambda: bottleneck("houlsby").up.weight, normal(0.01, 0.02)),
    "NOAH W_a, the paper": (lambda: SlicedLoRA(D, D, size=32, dropout=0.0, init="paper").W_a, linear),
    "NOAH W_b, its code": (lambda: SlicedLoRA(D, D, size=32, dropout=0.0, init="code").W_b, normal(0.02)),
    "NOAH W_1, the paper": (lambda: SlicedBottleneck(D, size=32, dropout=0.0, init="paper").W_1, xavier),
    "NOAH W_2, its code": (lambda: SlicedBottleneck(D, size=32, dropout=0.0, init="code").W_2, normal(0.02)),
    "Sparse-Tuning D1": (lambda: DenseAdapter(D, h=48, m=16, init="near_identity").D1.weight, linear),
    "Sparse-Tuning U2, its code": (lambda: DenseAdapter(D, h=48, m=16, init="trunc_normal").U2.weight, normal(0.02)),
}  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("name", STARTS)
def test_new_parameters_are_drawn_as_torch_draws_them(name):
    """Mean, deviation and largest magnitude of some thousand numbers beside those of as many of torch's."""
    make, draw = STARTS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        ours = make().detach()
        theirs = draw(torch.empty_like(ours))
    n, spread = ours.numel(), float(theirs.std())
    assert n >= 1000
    assert abs(float(ours.mean())) < 5 * spread / n**0.5
    assert float(ours.std()) == pytest.approx(spread, rel=6 / (2 * n) ** 0.5)
    if float(theirs.abs().max()) < 2.1 * spread:  # bounded, as a uniform or a cut normal is
        assert float(ours.abs().max()) == pytest.approx(float(theirs.abs().max()), rel=0.01)
