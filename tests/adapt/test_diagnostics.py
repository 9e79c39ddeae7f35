"""Effective ranks against matrices whose ranks are known, block statistics against a model's own blocks."""

import math

import pytest
import torch

from karst_bench.adapt.attach import adapted_model
from karst_bench.adapt.diagnostics import UpdateSpectrum, block_statistics, update_spectra
from karst_bench.adapt.merge import merge

UNEVEN = math.exp(0.25 * math.log(4) + 0.75 * math.log(4 / 3))


@pytest.mark.parametrize(("values", "rank"), [([2.0, 0.0, 0.0], 1), ([1.0] * 3, 3), ([0.0, 0.0], 0), ([3.0, 1.0], UNEVEN)])
def test_effective_rank_counts_equal_directions(values: list[float], rank: float) -> None:
    assert UpdateSpectrum("x", torch.tensor(values), 1.0).effective_rank == pytest.approx(rank)


@pytest.mark.parametrize("family", ["vit", "swin"])
@pytest.mark.parametrize(
    "words", [("method=lora", "method.r=2"), ("method=ka", "method.m=4", "method.r=2"), ("method=fact_tt", "method.r=4")]
)
def test_spectra_are_those_of_what_merging_adds(family: str, words: tuple[str, ...], attached, shake, tiny) -> None:
    case = shake(attached(family, *words))
    found = {spectrum.path: spectrum for spectrum in update_spectra(case.net)}
    merged, plain = merge(case.net), tiny(family)
    changed = {path for path, layer in adapted_model(case.net).layers.items() if hasattr(layer.base, "in_features")}
    assert found.keys() == changed
    for path, spectrum in found.items():
        dW = (merged.get_submodule(path).weight - plain.get_submodule(path).weight).detach().double()
        torch.testing.assert_close(spectrum.values, torch.linalg.svdvals(dW), atol=1e-5, rtol=1e-3)
        bound = 4 if "lora" in words[0] else spectrum.largest_rank  # q and v, of rank 2 each
        assert 1 <= spectrum.effective_rank <= bound + 1e-6
        assert spectrum.relative_norm == pytest.approx((dW.norm() / plain.get_submodule(path).weight.norm()).item(), rel=1e-3)


def test_block_statistics_are_of_the_blocks_outputs(attached, images) -> None:
    case = attached("vit", "method=karst", "method.m=4")
    with torch.no_grad():
        case.net.pos_embed += 1.0  # a mean that a deviation is told from a root mean square by
    outputs = []
    hook = case.net.blocks[1].register_forward_hook(lambda _m, _i, y: outputs.append(y.detach()))
    found = block_statistics(case.net, case.model.spec, images.split(2))
    hook.remove()
    assert [statistics.path for statistics in found] == [f"blocks.{i}" for i in range(4)]
    h = torch.cat(outputs)
    assert found[1].mean == pytest.approx(h.mean().item(), abs=1e-5)
    assert found[1].mean > 0.1
    assert found[1].std == pytest.approx(h.std(correction=0).item(), rel=1e-4)
