"""LST's side network: its equation, what it is cut out of, and that nothing else has a graph."""

import pytest
import torch

from karst_bench.adapt.side_blocks import BackboneCuts
from karst_bench.adapt.speed.cached_activations import split_cached_activations
from karst_bench.adapt.timm_sites import model_spec
from karst_bench.errors import UserError


def taps(net, images):
    """(the input of each stage's first block, every block's output) of a plain timm model."""
    seen, starts = [], []
    blocks = list(net.blocks) if hasattr(net, "blocks") else [block for stage in net.layers for block in stage.blocks]

    def note(_, args, out):
        starts.append(args[0])
        seen.append(out)

    hooks = [block.register_forward_hook(note) for block in blocks]
    net.forward_features(images)
    for hook in hooks:
        hook.remove()
    return starts, seen


@torch.no_grad()
@pytest.mark.parametrize("family", ["vit", "swin"])
def test_equation(attached, tiny, images, shake, family):
    case = shake(attached(family, "method=lst"))
    side, net = case.model.block_hooks.hooks[0], tiny(family)
    starts, seen = taps(net, images)
    s = starts[0] @ side.first.weight.T + side.first.bias
    for i, f in enumerate(seen):
        stage = case.model.spec.stages[i]
        if i and stage != case.model.spec.stages[i - 1]:
            s = side.mergings[str(stage)](s)
        m = 1 / (1 + torch.exp(-10 * side.gates[i]))
        s = side.blocks[i](m * s + (1 - m) * (f @ side.downs[i].weight.T + side.downs[i].bias))
    z = torch.nn.functional.layer_norm(s, s.shape[-1:], side.norm.weight, side.norm.bias) @ side.up.weight.T + side.up.bias
    read = z[:, 0] if family == "vit" else z.mean((1, 2))
    assert torch.allclose(case.net(images), net.get_classifier()(read), atol=1e-4)


@pytest.mark.parametrize("family", ["vit", "swin"])
def test_the_backbone_has_no_graph(attached, images, family):
    case = attached(family, "method=lst")
    side = case.model.block_hooks.hooks[0]
    inside, outputs = {id(module) for module in side.modules()}, []
    for module in case.net.modules():
        if id(module) not in inside and not any(True for _ in module.children()) and module is not case.net.get_classifier():
            module.register_forward_hook(lambda m, _, out: outputs.append((type(m).__name__, out.requires_grad)))
    case.net.train()(images).sum().backward()
    first = next(i for i, (_, grad) in enumerate(outputs) if grad)
    blocks = 9 * case.model.spec.depth
    assert first > blocks and not any(grad for _, grad in outputs[:first]), "a graph only behind the last block"
    assert all(p.grad is not None for p in side.parameters())
    assert split_cached_activations(case.net, backbone_mode="eval") is not None


@torch.no_grad()
@pytest.mark.parametrize("family", ["vit", "swin"])
def test_side_blocks_are_cut_out_by_magnitude(tiny, family):
    """A planted channel, head channel and hidden unit are kept, with their own weights."""
    net = tiny(family)
    spec = model_spec(net)
    block = net.blocks[1] if family == "vit" else net.layers[0].blocks[1]
    d, heads = spec.widths[1], spec.heads[1]
    block.mlp.fc1.weight[:, 3] *= 50
    block.attn.qkv.weight[[5, d + 5]] *= 50  # the fifth channel of the first head, of q and of k
    block.mlp.fc2.weight[:, 7] *= 50
    block.norm1.eps = 2e-4  # of a backbone whose norms are not timm's usual ones
    cuts = BackboneCuts(net, spec, 8)
    side, channels = cuts.block(1, pruned=True), cuts.channels(0)
    assert 3 in channels and len(channels) == d // 8
    own = side.attn.qkv.weight[: d // heads // 8]  # of the first head's q
    assert (own == block.attn.qkv.weight[5][channels]).all(1).any()
    kept = [(row == block.attn.qkv.weight[:, channels]).all(1).nonzero().item() for row in side.attn.qkv.weight[: 2 * d // 8]]
    assert [row - d for row in kept[d // 8 :]] == kept[: d // 8], "q and k meet channel by channel: both keep the same ones"
    assert side.norm1.eps == 2e-4
    assert (side.mlp.fc1.weight == block.mlp.fc1.weight[7][channels]).all(1).any()
    assert torch.equal(side.norm1.weight, block.norm1.weight[channels])
    drawn = cuts.block(1, pruned=False)
    assert drawn.state_dict().keys() == side.state_dict().keys()
    assert not torch.equal(drawn.mlp.fc1.weight, side.mlp.fc1.weight)


def test_a_width_that_heads_do_not_share_is_refused(attached):
    with pytest.raises(UserError, match="no multiple of the 3 heads of block 0; use a divisor of 16"):
        attached("vit", "method=lst", "method.r=32")
