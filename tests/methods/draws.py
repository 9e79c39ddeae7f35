"""Every module that draws in training, tiny, beside its equation written out for a given draw."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from karst_bench.adapt.residual import InputRecorder, Residual
from karst_bench.methods.convpass import Bypass
from karst_bench.methods.fact_tt import TrainUpdate
from karst_bench.methods.repadapter import Reparameterised
from karst_bench.nn.bottleneck import Bottleneck, ScaledBottleneck
from karst_bench.nn.drop_path import DroppedBranch
from karst_bench.nn.fact import SharedFactors
from karst_bench.nn.kernel_delta import KernelDelta, RecomputedLinear
from karst_bench.nn.lowrank import DroppedLowRank, LowRankProduct
from karst_bench.nn.prompts import Prompts
from karst_bench.nn.sliced import SlicedBottleneck, SlicedLoRA, TailPrompts

P = 0.25  # the rate of every draw; each outcome has a probability that is a product of 1/4 and 3/4
X = torch.tensor([0.7, -1.3])  # one image: one token of width 2
U0 = torch.tensor([0.4, 0.9])  # what a residual adapter stands beside


@dataclass(frozen=True)
class Draw:
    """module: in train mode; call(module, n): n identical images -> (n, k) outcomes; draws: how many bits one image draws;
    formula(module, *bits): what those bits give, (k,), from the equation and the module's parameters."""

    module: nn.Module
    call: Callable[[nn.Module, int], Tensor]
    draws: int
    formula: Callable[..., Tensor]

    def outcomes(self) -> list[tuple[float, Tensor]]:
        """(probability, value) of every combination of bits, kept (1) with 1 - P."""
        found = []
        for bits in itertools.product((0.0, 1.0), repeat=self.draws):
            probability = 1.0
            for bit in bits:
                probability *= 1 - P if bit else P
            found.append((probability, self.formula(self.module, *bits)))
        return found


def tokens(module: nn.Module, n: int) -> Tensor:
    return module(X.expand(n, 1, 2)).flatten(1)


def kept(*bits: float) -> Tensor:
    return torch.tensor(bits) / (1 - P)


def quick(z: Tensor) -> Tensor:
    return z / (1 + torch.exp(-1.702 * z))


def kernel(update: KernelDelta) -> Tensor:
    """dW of SNELL without sparsity, entry by entry."""
    rows = [
        [0.1 * ((q - p).pow(2).sum().sqrt() - (q2 - p2).pow(2).sum().sqrt()) for p, p2 in zip(*update.P, strict=True)]
        for q, q2 in zip(*update.Q, strict=True)
    ]
    return torch.stack([torch.stack(row) for row in rows])


def bottleneck(m: Bottleneck, a: float, b: float) -> Tensor:
    hidden = (m.down.weight @ X + m.down.bias).clamp_min(0) * kept(a, b)
    return m.s * (m.up.weight @ hidden + m.up.bias)


def scaled(m: ScaledBottleneck, a: float) -> Tensor:
    z = m.down.weight @ X + m.down.bias
    return m.gain * kept(a) * (m.up.weight @ (z * (1 + torch.erf(z / 2**0.5)) / 2) + m.up.bias)


def bypass(m: Bypass, a: float, b: float) -> Tensor:
    """The class token is an image of one pixel: of the 3 x 3 kernel its middle alone meets it."""
    z = m.conv.weight[:, :, 1, 1] @ quick(m.down.weight @ X + m.down.bias) + m.conv.bias
    return m.s * (m.up.weight @ (quick(z) * kept(a, b)) + m.up.bias)


def reparameterised(m: Reparameterised, a: float, b: float) -> Tensor:
    hidden = (m.D @ X + m.a) * kept(a, b)
    return X + m.s * (torch.stack([m.U[0, 0, 0] * hidden[0], m.U[1, 0, 0] * hidden[1]]) + m.b)


def train_update(m: TrainUpdate, a: float, b: float) -> Tensor:
    return m.s * m.factors.V @ (m.G @ (m.factors.U @ X) * kept(a, b))


def sliced_bottleneck(m: SlicedBottleneck, a: float, b: float) -> Tensor:
    return m.W_2 @ (quick(m.W_1 @ X + m.b_1) * kept(a, b)) + m.b_2


def beside(branch: nn.Module, **positions: str) -> Residual:
    """A residual half of a block whose drop-path has the rate P, with an adapter."""
    recorder = InputRecorder(nn.Identity())
    residual = Residual(DropPath(P), recorder)
    residual.add(branch, positions["reads"], positions["position"])
    return residual


def half(module: Residual, n: int) -> Tensor:
    module.recorder.module(X.expand(n, 1, 2))
    return module(U0.expand(n, 1, 2)).flatten(1)


def draws() -> dict[str, Draw]:
    """Name -> module and equation; made anew, parameters off their start, the same every time."""
    ends = SharedFactors(2, 2)
    made = {
        "prompts": Draw(Prompts(1, 2, patch=2, embed_dim=4, dropout=P), lambda m, n: m(n).flatten(1), 2,
                        lambda m, a, b: m.tokens[0] * kept(a, b)),
        "bottleneck": Draw(Bottleneck(2, h=2, s=0.5, act="relu", dropout=P), tokens, 2, bottleneck),
        "adapter_plus": Draw(ScaledBottleneck(2, h=2, act="gelu", dropout=0.0, init="houlsby", drop_path=P), tokens, 1, scaled),
        "convpass": Draw(Bypass(2, h=2, s=0.5, dropout=P, init="xavier", prefix=1, grid=lambda: (1, 1)),
                         lambda m, n: m(X.expand(n, 2, 2))[:, 0], 2, bypass),
        "repadapter": Draw(Reparameterised(2, h=2, s=0.5, groups=2, dropout=P, biases=True), tokens, 2, reparameterised),
        "lora input": Draw(DroppedLowRank(LowRankProduct(2, 2, r=1, s=2.0), input_p=P), tokens, 2,
                           lambda m, a, b: 2.0 * m.update.B @ (m.update.A @ (X * kept(a, b)))),
        "low rank, hidden": Draw(DroppedLowRank(LowRankProduct(2, 2, r=2, s=2.0), hidden_p=P), tokens, 2,
                                 lambda m, a, b: 2.0 * m.update.B @ (m.update.A @ X * kept(a, b))),
        "fact": Draw(TrainUpdate(ends, outs=1, ins=1, r=2, s=0.5, dropout=P), tokens, 2, train_update),
        "snell": Draw(RecomputedLinear(KernelDelta(2, 2, r=2, kept=None), dropout=P), tokens, 2,
                      lambda m, a, b: kernel(m.update) @ (X * kept(a, b))),
        "branch drop": Draw(DroppedBranch(nn.Linear(2, 2), p=P), tokens, 1,
                            lambda m, a: (m.fn.weight @ X + m.fn.bias) * kept(a)),
        "noah, prompts": Draw(TailPrompts({0: Prompts(1, 2, patch=2, embed_dim=4, dropout=P)}, 1),
                              lambda m, n: m.before(0, torch.zeros(n, 1, 2), 0)[0][:, 1], 2,
                              lambda m, a, b: m.prompts["0"].tokens[0] * kept(a, b)),
        "noah, lora": Draw(SlicedLoRA(2, 2, size=1, dropout=P, init="code"), tokens, 2,
                           lambda m, a, b: m.W_b @ (m.W_a @ (X * kept(a, b)))),
        "noah, adapter": Draw(SlicedBottleneck(2, size=2, dropout=P, init="code"), tokens, 2, sliced_bottleneck),
        # positions of an adapter and the block's own drop-path, of the same rate
        "inside": Draw(beside(nn.Linear(2, 2), reads="norm", position="inside"), half, 1,
                       lambda m, a: (U0 + m.fns[0].weight @ X + m.fns[0].bias) * kept(a)),
        "own_drop_path": Draw(beside(nn.Linear(2, 2), reads="norm", position="own_drop_path"), half, 2,
                              lambda m, a, b: U0 * kept(a) + (m.fns[0].weight @ X + m.fns[0].bias) * kept(b)),
        "after_drop_path": Draw(beside(nn.Linear(2, 2), reads="block", position="after_drop_path"), half, 1,
                                lambda m, a: U0 * kept(a) + m.fns[0].weight @ X + m.fns[0].bias),
    }  # fmt: skip
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for case in made.values():
            case.module.train()
            for p in case.module.parameters():
                p.copy_(torch.randn(p.shape, generator=generator))
    return made
