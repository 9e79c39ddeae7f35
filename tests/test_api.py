"""The Python API: attach, merge, save and load on timm models, as a stranger would use it."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import karst_bench
from karst_bench import UserError

NETS = {
    "vit": ("vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}),
    "swin": ("swin_tiny_patch4_window7_224", {"img_size": 32, "patch_size": 2, "window_size": 4, "embed_dim": 16,
                                              "depths": (1, 1, 1, 1), "num_heads": (1, 2, 4, 8)}),
}  # fmt: skip


def fresh(family: str) -> nn.Module:
    name, arguments = NETS[family]
    torch.manual_seed(1)
    return timm.create_model(name, num_classes=4, **arguments).eval()


@pytest.fixture(params=sorted(NETS))
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def disturb(net: nn.Module) -> None:
    with torch.no_grad():
        for p in net.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(4)))


def test_attach_works_in_place_and_freezes_the_backbone(family: str, images: Tensor) -> None:
    net = fresh(family)
    before = net(images)
    assert karst_bench.attach(net, "karst", N=2, m=8, r=4) is net
    assert torch.equal(net(images), before)
    head = {name for name, _ in net.get_classifier().named_parameters(prefix="head")}
    trained = {name for name, p in net.named_parameters() if p.requires_grad}
    assert len(trained) > len(head)
    assert not any(name.endswith("base.weight") for name in trained)


def test_the_same_seed_draws_the_same_method(family: str) -> None:
    first, second = (karst_bench.attach(fresh(family), "karst", seed=5) for _ in range(2))
    for (name, a), (_, b) in zip(first.named_parameters(), second.named_parameters(), strict=True):
        assert torch.equal(a, b), name


def test_merged_is_plain_timm_with_the_same_logits(family: str, images: Tensor) -> None:
    net = fresh(family)
    keys = set(net.state_dict())
    karst_bench.attach(net, "karst", m=4)
    disturb(net)
    adapted = net(images)
    assert karst_bench.merge(net) is net
    assert set(net.state_dict()) == keys
    torch.testing.assert_close(net(images), adapted, atol=1e-4, rtol=0)
    plain = fresh(family)
    plain.load_state_dict(net.state_dict())
    torch.testing.assert_close(plain(images), adapted, atol=1e-4, rtol=0)
    karst_bench.unmerge(net)
    assert torch.equal(net(images), adapted)


def test_an_unmerged_model_is_as_before_the_merge(tmp_path: Path) -> None:
    net = karst_bench.unmerge(karst_bench.merge(karst_bench.attach(fresh("vit"), "lora")))
    karst_bench.save_adapter(net, tmp_path / "a.safetensors")  # refused on a merged model
    with pytest.raises(UserError, match="not merged"):
        karst_bench.unmerge(net)


def test_save_and_load_bring_the_method_along(family: str, images: Tensor, tmp_path: Path) -> None:
    net = karst_bench.attach(fresh(family), "lora", r=2)
    disturb(net)
    path = karst_bench.save_adapter(net, tmp_path / "a.safetensors")
    again = karst_bench.load_adapter(fresh(family), path)
    assert torch.equal(again(images), net(images))
    assert path.stat().st_size < 4 * sum(p.numel() for p in net.parameters() if p.requires_grad) + 20_000


def test_ranks_may_differ_by_family(images: Tensor) -> None:
    net = karst_bench.attach(fresh("swin"), "karst", r={"vit": 8, "swin": [2, 2, 4, 4]})
    assert net(images).shape == (2, 4)


def test_a_second_method_composes(images: Tensor) -> None:
    net = karst_bench.attach(fresh("vit"), "lora", also="vpt_deep", extra="rst")
    kinds = {type(module).__name__ for module in net.modules()}
    assert {"DroppedLowRank", "DeepPrompts", "Affine"} <= kinds
    assert net(images).shape == (2, 4)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda net: karst_bench.attach(net, "karts"), ["karts", "did you mean karst"]),
        (lambda net: karst_bench.attach(net, "karst", M=8), ["method.M", "method.m"]),
        (lambda net: karst_bench.attach(net, "karst", m=7), ["m=7", "48", "try"]),
        (lambda net: karst_bench.attach(net, "full", extra="rst"), ["full", "extra=none"]),
        (lambda net: karst_bench.attach(nn.Linear(3, 3), "lora"), ["Linear", "timm"]),
        (lambda net: karst_bench.merge(net), ["carries no method"]),
        (lambda net: karst_bench.merge(karst_bench.attach(net, "adaptformer")), ["cannot be merged", "Bottleneck"]),
        (lambda net: karst_bench.attach(karst_bench.attach(net, "lora"), "karst"), ["already attached"]),
        (lambda net: karst_bench.merge(karst_bench.attach(net.bfloat16(), "lora")), ["bfloat16", "float()"]),
    ],
)
def test_misuse_is_refused_with_the_remedy(call, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        call(fresh("vit"))
    assert all(word in str(caught.value) for word in words), caught.value


def test_an_adapter_of_another_shape_changes_nothing(images: Tensor, tmp_path: Path) -> None:
    path = karst_bench.save_adapter(karst_bench.attach(fresh("vit"), "lora", r=2), tmp_path / "a.safetensors")
    net = karst_bench.attach(fresh("vit"), "lora", r=4)
    before = net(images)
    with pytest.raises(UserError, match=r"method\.r=2.*method\.r=4"):
        karst_bench.load_adapter(net, path)
    assert torch.equal(net(images), before)


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"\x80\x04K\x01." + b, None])
def test_a_damaged_adapter_is_refused(damage, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    if damage is not None:
        karst_bench.save_adapter(karst_bench.attach(fresh("vit"), "lora"), path)
        path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=r"a\.safetensors"):
        karst_bench.load_adapter(fresh("vit"), path)


def test_an_adapter_file_of_another_format_is_refused(tmp_path: Path) -> None:
    path = karst_bench.save_adapter(karst_bench.attach(fresh("vit"), "lora"), tmp_path / "a.safetensors")
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() | {"format": "karst_bench-adapter-99"}
    save_file(load_file(path), path, metadata=metadata)
    with pytest.raises(UserError, match=r"karst_bench-adapter-99.*this version reads"):
        karst_bench.load_adapter(fresh("vit"), path)


def test_detach_gives_the_model_back(family: str, images: Tensor) -> None:
    net = fresh(family)
    keys, before, flags = list(net.state_dict()), net(images), [p.requires_grad for p in net.parameters()]
    karst_bench.detach(karst_bench.attach(net, "karst", m=4, also="bitfit"))
    assert list(net.state_dict()) == keys and torch.equal(net(images), before)
    assert [p.requires_grad for p in net.parameters()] == flags
    with pytest.raises(UserError, match="carries no method"):
        karst_bench.detach(net)
