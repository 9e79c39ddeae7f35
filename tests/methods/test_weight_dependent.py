"""DoRA, HiRA and OFT against huggingface/peft on the same timm model, and against their definitions."""

import pytest
import torch

from karst_bench.adapt.merge import merge
from karst_bench.nn.weight_dependent import InputRotation, MagnitudeDirection

LAYERS = ["qkv", "proj", "fc1", "fc2"]


def peft_model(tiny, config):
    peft = pytest.importorskip("peft")
    kind, values = config
    if not hasattr(peft, kind):
        pytest.skip(f"this peft has no {kind}")
    return peft.get_peft_model(tiny("vit"), getattr(peft, kind)(target_modules=LAYERS, exclude_modules="patch_embed.*", **values))


@torch.no_grad()
def test_dora(attached, tiny, images, shake):
    """Logits, merged ones and gradients; peft's magnitude is |W0| + mu."""
    case = shake(attached("vit", "method=dora", "method.r=4", "method.s=0.5", "method.sites=all"))
    theirs = peft_model(tiny, ("LoraConfig", {"r": 4, "lora_alpha": 2, "use_dora": True})).eval()
    for path, wrapper in case.model.layers.items():
        layer, update = theirs.base_model.model.get_submodule(path), wrapper.deltas[0]
        layer.lora_A["default"].weight.copy_(update.A)
        layer.lora_B["default"].weight.copy_(update.B)
        layer.lora_magnitude_vector["default"].weight.copy_(wrapper.base.weight.norm(dim=1) + update.mu)
    with torch.enable_grad():
        ours, other = case.net(images), theirs(images)
        ours.square().sum().backward()
        other.square().sum().backward()
    assert torch.allclose(ours, other, atol=1e-4, rtol=1e-4)
    layer, update = theirs.base_model.model.get_submodule("blocks.2.attn.qkv"), case.model.layers["blocks.2.attn.qkv"].deltas[0]
    for mine, value in ((update.mu, layer.lora_magnitude_vector["default"].weight), (update.B, layer.lora_B["default"].weight)):
        assert torch.allclose(mine.grad, value.grad, atol=1e-3 * value.grad.abs().max().item())
    assert torch.allclose(merge(case.net)(images), ours, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_hira(attached, tiny, images, shake):
    case = shake(attached("vit", "method=hira", "method.r=4", "method.sites=all"))
    theirs = peft_model(tiny, ("HiraConfig", {"r": 4})).eval()
    for path, wrapper in case.model.layers.items():
        layer = theirs.base_model.model.get_submodule(path)
        layer.hira_A["default"].copy_(wrapper.deltas[0].A)
        layer.hira_B["default"].copy_(wrapper.deltas[0].B)
    adapted = case.net(images)
    assert torch.allclose(theirs(images), adapted, atol=1e-4, rtol=1e-4)
    assert torch.allclose(merge(case.net)(images), adapted, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_oft(attached, tiny, images, shake):
    """peft rotates q, k and v of a fused projection together, so it is compared on the other three layers."""
    case = shake(attached("vit", "method=oft", "method.b=8", "method.sites=[proj,fc1,fc2]"))
    peft = pytest.importorskip("peft")
    config = peft.OFTConfig(oft_block_size=8, target_modules=["proj", "fc1", "fc2"], exclude_modules="patch_embed.*",
                            use_cayley_neumann=False)  # fmt: skip
    theirs = peft.get_peft_model(tiny("vit"), config).eval()
    for path, wrapper in case.model.layers.items():
        theirs.base_model.model.get_submodule(path).oft_R["default"].weight.copy_(wrapper.deltas[0].q)
    adapted = case.net(images)
    assert torch.allclose(theirs(images), adapted, atol=1e-4, rtol=1e-4)
    assert torch.allclose(merge(case.net)(images), adapted, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_rotations_keep_lengths_and_angles():
    update, W0 = InputRotation(12, b=4).double(), torch.randn(5, 12, dtype=torch.float64)
    update.q.normal_()
    W = W0 + update.delta(W0)
    assert torch.allclose(W @ W.T, W0 @ W0.T) and (W - W0).abs().max() > 0.1
    assert torch.allclose(update.rotations() @ update.rotations().mT, torch.eye(4, dtype=torch.float64).expand(3, 4, 4))


@torch.no_grad()
def test_a_row_has_the_length_that_is_trained():
    update, W0 = MagnitudeDirection(5, 12, r=2, s=1.0), torch.randn(5, 12)
    update.B.normal_()
    update.mu.copy_(torch.arange(5.0))
    assert torch.allclose((W0 + update.delta(W0)).norm(dim=1), W0.norm(dim=1) + torch.arange(5.0), atol=1e-5)


def test_a_block_that_does_not_divide_is_refused(attached):
    from karst_bench.errors import UserError

    with pytest.raises(UserError, match=r"does not divide the 48 inputs .* on this vit; use a divisor"):
        attached("vit", "method=oft", "method.b=7")
