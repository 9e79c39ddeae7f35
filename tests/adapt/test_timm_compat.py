"""The private and moving names of timm and torch: each is there and means what adapt/timm_compat.py takes it for."""

import pytest
import timm
import torch
import torch.nn.functional as F
from small import SWIN, VIT
from timm.layers import set_fast_norm
from torch import nn

from karst_bench.adapt.timm_compat import (
    Attention,
    Block,
    FakeTensorMode,
    is_plain_gelu,
    is_plain_layer_norm,
    renamed_checkpoint,
)
from karst_bench.adapt.window_tokens import position_bias


def built(backbone, **arguments):
    torch.manual_seed(0)
    return timm.create_model(backbone["timm_name"], num_classes=4, **backbone["model_args"], **arguments)


def test_a_vit_is_made_of_these_blocks():
    net = built(VIT)
    assert {type(block) for block in net.blocks} == {Block}
    assert {type(block.attn) for block in net.blocks} == {Attention}
    attn = net.blocks[0].attn
    assert isinstance(attn.fused_attn, bool) and attn.scale == 16**-0.5 and attn.num_heads == 3
    assert all(isinstance(getattr(attn, name), nn.Module) for name in ("qkv", "q_norm", "k_norm", "attn_drop", "proj_drop"))


def test_norms_and_activations_are_the_plain_ones():
    for net, block in ((vit := built(VIT), vit.blocks[0]), (swin := built(SWIN), swin.layers[0].blocks[0])):
        x = torch.randn(2, net.norm.normalized_shape[0])
        assert is_plain_layer_norm(net.norm) and is_plain_gelu(block.mlp.act)
        assert torch.equal(net.norm(x), F.layer_norm(x, x.shape[1:], net.norm.weight, net.norm.bias, net.norm.eps))
        assert torch.equal(block.mlp.act(x), F.gelu(x))
    assert not is_plain_layer_norm(nn.BatchNorm1d(3)) and not is_plain_gelu(nn.SiLU())


def test_timms_faster_norm_is_told_apart():
    set_fast_norm(True)
    try:
        norm = built(VIT).norm
    finally:
        set_fast_norm(False)
    assert not is_plain_layer_norm(norm)


def test_the_position_bias_is_timms():
    attn = built(SWIN).layers[0].blocks[0].attn
    nn.init.normal_(attn.relative_position_bias_table)
    assert torch.equal(position_bias(attn), attn._get_rel_pos_bias())


def test_fake_tensors_follow_shapes_through_real_weights():
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        y = nn.Linear(3, 5)(torch.zeros(2, 3))
    assert y.shape == (2, 5) and type(y) is not torch.Tensor


@pytest.mark.parametrize("backbone", [VIT, SWIN], ids=["vit", "swin"])
@pytest.mark.parametrize("headless", [True, False])
def test_a_file_of_timms_own_names_keeps_them(backbone, headless):
    net = built(backbone)
    state = {name: t for name, t in net.state_dict().items() if not (headless and name.startswith("head"))}
    renamed = renamed_checkpoint(state, net)
    assert renamed.keys() == state.keys() and all(torch.equal(renamed[name], t) for name, t in state.items())


def test_an_original_swin_downsamples_at_a_stages_end():
    net = built(SWIN)
    state = {name: t for name, t in net.state_dict().items() if not name.startswith("head")}
    original = {name.replace("layers.1.downsample", "layers.0.downsample"): t for name, t in state.items()}
    assert original.keys() != state.keys()
    assert renamed_checkpoint(original, net).keys() == state.keys()
