"""What users of peft look for: counts in a line, adapters off for a while, several on one backbone, sites by name."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import karst_bench
from karst_bench import UserError

METHODS = ["lora", "karst", "ssf", "vpt_deep", "adaptformer", "dtl", "convpass"]


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def trained(net: nn.Module, method: str, seed: int, **given: Any) -> nn.Module:
    """A method that has been trained, as far as anybody can see."""
    karst_bench.attach(net, method, seed=seed, **({"m": 4, "r": 2} if method == "karst" else {}), **given)
    with torch.no_grad():
        for p in net.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(seed)))
    return net.eval()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", ["vit", "swin"])
def test_without_its_adapter_a_model_is_its_backbone(method: str, family: str, tiny: Any, images: Tensor) -> None:
    plain, net = tiny(family), trained(tiny(family), method, 1)
    plain.get_classifier().load_state_dict(net.get_classifier().state_dict())
    adapted, flags = net(images), {name: p.requires_grad for name, p in net.named_parameters()}
    with karst_bench.disable_adapter(net) as bare:
        assert torch.equal(bare(images), plain(images)) and set(net.state_dict()) == set(plain.state_dict())
    assert torch.equal(net(images), adapted) and not torch.equal(adapted, plain(images))
    assert {name: p.requires_grad for name, p in net.named_parameters()} == flags


@pytest.mark.parametrize("second", ["karst", "vpt_deep", "dtl"])
def test_several_adapters_take_turns(second: str, tiny: Any, images: Tensor, tmp_path: Path) -> None:
    net = trained(tiny("vit"), "lora", 1, adapter_name="birds")
    birds = net(images)
    karst_bench.save_adapter(net, tmp_path / "birds.safetensors")
    trained(net, second, 2, adapter_name="trees")
    trees = net(images)
    for name, wanted in (("birds", birds), ("trees", trees), ("birds", birds)):
        assert karst_bench.set_adapter(net, name) is net and torch.equal(net(images), wanted)
    karst_bench.merge(net)
    torch.testing.assert_close(net(images), birds, atol=1e-4, rtol=1e-4)
    with pytest.raises(UserError, match="merged"):
        karst_bench.set_adapter(net, "trees")
    karst_bench.unmerge(net)
    karst_bench.load_adapter(net, tmp_path / "birds.safetensors", adapter_name="again")
    assert torch.equal(net(images), birds)
    with pytest.raises(UserError, match="names: birds, trees, again"):
        karst_bench.set_adapter(net, "fish")
    with pytest.raises(UserError, match="is taken"):
        karst_bench.attach(net, "lora", adapter_name="trees")


def test_what_was_not_named_is_called_default_and_a_failure_leaves_it(tiny: Any, images: Tensor) -> None:
    net = trained(tiny("vit"), "lora", 1)
    before = net(images)
    for method, said in (("bitfit", "its own parameters|own parameters"), ("karst", "does not divide")):
        with pytest.raises(UserError, match=said):
            karst_bench.attach(net, method, adapter_name="other", **({"m": 7} if method == "karst" else {}))
        assert torch.equal(net(images), before)
    trained(net, "ssf", 2, adapter_name="other")
    assert torch.equal(karst_bench.set_adapter(net, "default")(images), before)
    with pytest.raises(UserError, match="changed in place"), karst_bench.disable_adapter(trained(tiny("vit"), "bitfit", 1)):
        pass


def test_what_trains_is_printed_as_peft_prints_it(tiny: Any, capsys: pytest.CaptureFixture[str]) -> None:
    net = karst_bench.attach(tiny("vit"), "lora", r=2)
    method, head = 4 * 2 * 2 * (48 + 48), 48 * 5 + 5
    karst_bench.print_trainable_parameters(net)
    said = capsys.readouterr().out
    assert said.startswith(f"trainable params: {method + head:,} || all params: ") and f"(method {method:,}, head {head})" in said


@pytest.mark.parametrize("method", ["lora", "dora", "hira"])
def test_sites_are_roles(method: str, tiny: Any) -> None:
    net = karst_bench.attach(tiny("vit"), method, sites=["k", "fc2"])
    names = {path.rpartition(".")[2] for path in net._adapted_model.layers}  # type: ignore[union-attr]
    assert names == {"qkv", "fc2"}
    for sites, said in ((["query"], "list of some of"), (["qkv", "q"], "names q, k or v twice"), ("none", "qkv_fused")):
        with pytest.raises(UserError, match=said):
            karst_bench.attach(tiny("vit"), method, sites=sites)
    with pytest.raises(UserError, match=r"method\.sites"):
        karst_bench.attach(tiny("vit"), "ssf", sites=["q"])
