"""A hook beside a frozen backbone, trained on what one pass stored, against the same hook in the whole model."""

import contextlib
import copy

import pytest
import timm
import torch
from small import SWIN, VIT, Images
from torch import nn

from karst_bench.adapt.attach import attach_methods
from karst_bench.adapt.speed.cached_activations import CachedActivations, split_cached_activations
from karst_bench.adapt.speed.frozen_features import FeatureBatches
from karst_bench.config.compose import settings_of
from karst_bench.engine.step import train_mode
from karst_bench.methods.base import Method
from karst_bench.nn.block_hook import BlockHook
from karst_bench.run import pipeline, training


class Ladder(BlockHook):
    """s <- s + tanh(D_l mean(f_l)) from the stage starts and every block; U s joins the backbone's output."""

    def __init__(self, widths, starts, d, dropout=0.0):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(width, 4) for width in widths)
        self.starts = nn.ModuleList(nn.Linear(width, 4) for width in starts)
        self.up, self.dropout = nn.Linear(4, d), nn.Dropout(dropout)

    def start(self, h):
        return 0.0

    def stage_start(self, stage, h, state):
        return state + self.read(self.starts[stage], h)

    def after(self, i, h, state):
        return h, state + self.read(self.blocks[i], h)

    def finish(self, h, state):
        side = self.up(self.dropout(state))
        return h + side.view(len(h), *[1] * (h.ndim - 2), -1)

    def read(self, down, h):
        return down(h.flatten(1, -2).mean(1)).tanh()


class Meddler(Ladder):
    def after(self, i, h, state):
        return h + 1, state


class Beside(Method):
    def __init__(self, hook=Ladder, dropout=0.0, unfreeze=None, *, frozen=True):
        super().__init__(name="beside")
        self.hook, self.dropout, self.unfreeze, self.frozen = hook, dropout, unfreeze, frozen

    def attach(self, model, artefact=None):
        spec = model.spec
        firsts = [spec.stages.index(stage) for stage in sorted(set(spec.stages))]
        starts = [spec.widths[i] for i in firsts]
        model.block_hook(self.hook(spec.widths, starts, spec.widths[-1], self.dropout))
        if self.frozen:
            model.frozen_backbone()
        if self.unfreeze:
            model.unfreeze(self.unfreeze)

    def expected_params(self, spec):
        """ViT: depth + 1 ladders d -> 4 and the way up, with biases."""
        return (spec.depth + 1) * 4 * (spec.embed_dim + 1) + 5 * spec.embed_dim


def model(backbone, method=None, *, drop_path_rate=0.0):
    torch.manual_seed(0)
    net = timm.create_model(
        backbone["timm_name"], num_classes=4, **backbone["model_args"], drop_path_rate=drop_path_rate
    )
    attach_methods(net, [method or Beside()])
    return net


@pytest.fixture(params=[VIT, SWIN], ids=["vit", "swin"])
def backbone(request):
    return request.param


def test_logits_and_gradients_are_the_models(backbone):
    net = model(backbone)
    whole = copy.deepcopy(net)
    cached, beside = split_cached_activations(net, backbone_mode="train")
    x, y = torch.randn(5, 3, 32, 32), torch.tensor([0, 1, 2, 3, 0])
    with torch.no_grad():
        rows = cached(x)
    logits = beside(rows)
    torch.testing.assert_close(logits, whole(x), rtol=1e-5, atol=1e-5)
    nn.functional.cross_entropy(logits, y).backward()
    nn.functional.cross_entropy(whole(x), y).backward()
    expected = {name: p.grad for name, p in whole.named_parameters() if p.requires_grad}
    found = {name: p.grad for name, p in beside.named_parameters() if p.requires_grad}
    assert found.keys() == expected.keys() and len(found) > 8
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_a_row_holds_each_stages_input_and_each_blocks_output():
    """ViT of 2 blocks: 3 activations of (16 + 1) x 48. Swin of 2 + 1: 2 stage inputs and 3 outputs, 16^2 x 8 and 8^2 x 16."""
    x = torch.randn(2, 3, 32, 32)
    for backbone, size in ((VIT, 3 * 17 * 48), (SWIN, 3 * 256 * 8 + 2 * 64 * 16)):
        cached, _ = split_cached_activations(model(backbone), backbone_mode="train")
        assert cached(x).shape == (2, size)


def test_the_backbone_keeps_nothing_for_backward(backbone):
    net = model(backbone)
    inner = [p for name, p in net.named_parameters() if "qkv" in name]
    for p in inner:
        p.requires_grad_(True)  # would train, if a graph ran through it
    net(torch.randn(2, 3, 32, 32)).sum().backward()
    assert inner and all(p.grad is None for p in inner)


@pytest.mark.parametrize("room", [None, 0], ids=["stored", "made anew"])
def test_batches_of_activations_follow_the_images(backbone, room):
    net = model(backbone, Beside(dropout=0.5)).train()
    cached, beside = split_cached_activations(net, backbone_mode="train")
    images = Images()
    rows = FeatureBatches(cached, images, batch=5, autocast=contextlib.nullcontext(), room=room)
    orders = [torch.Generator().manual_seed(3) for _ in range(2)]
    for _ in range(2):
        assert len(rows) == len(images)
        for (row, y), (x, labels) in zip(rows.epoch(orders[0]), list(images.epoch(orders[1])), strict=True):
            assert torch.equal(y, labels)
            assert all(module.training for module in beside.modules())  # the pass left no mode behind
            with torch.no_grad():
                torch.testing.assert_close(row, cached.eval()(x), rtol=1e-5, atol=1e-5)
            cached.train()
    assert len(list(rows.epoch(orders[0], skip=2))) == 1
    assert images.passes == (3 if room is None else 6)  # ours above are two; stored: one; anew: the try and three epochs


def test_what_is_stored_fits_into_the_room():
    cached, _ = split_cached_activations(model(VIT), backbone_mode="train")
    needed = 15 * 3 * 17 * 48 * 4  # bytes: 3 batches of 5 rows are set aside
    stored = [FeatureBatches(cached, Images(), batch=5, autocast=contextlib.nullcontext(), room=room)._stored is not None
              for room in (needed - 1, needed)]  # fmt: skip
    assert stored == [False, True]


def test_only_where_the_backbone_is_frozen_and_not_random():
    assert split_cached_activations(model(VIT, drop_path_rate=0.2), backbone_mode="train") is None
    assert split_cached_activations(model(VIT, drop_path_rate=0.2), backbone_mode="eval") is not None
    assert split_cached_activations(model(VIT, Beside(dropout=0.5)), backbone_mode="train") is not None
    assert split_cached_activations(model(VIT, Beside(unfreeze="blocks.0.*.bias")), backbone_mode="eval") is None
    assert split_cached_activations(model(VIT, Beside(unfreeze="norm.*")), backbone_mode="eval") is not None


def test_a_hook_that_changes_the_tokens_has_no_cached_activations():
    """Each block then reads what the hook made of the last one's output, which training moves."""
    assert split_cached_activations(model(VIT, Beside(Meddler, frozen=False)), backbone_mode="eval") is None


def test_a_hook_beside_a_frozen_backbone_may_not_change_it():
    with pytest.raises(ValueError, match="Meddler changes the tokens of a frozen backbone"):
        model(VIT, Beside(Meddler))(torch.randn(1, 3, 32, 32))


def test_a_hooks_own_dropout_stays_on_beside_a_backbone_in_eval_mode():
    net = model(VIT, Beside(dropout=0.5), drop_path_rate=0.2)
    _, beside = split_cached_activations(net, backbone_mode="eval")
    train_mode(beside, "eval")
    modes = {type(module).__name__: module.training for module in beside.modules()}
    assert modes["Ladder"] and modes["Dropout"] and not modes["DropPath"]


def test_a_run_trains_on_activations_as_it_would_on_images(one_block, mini_cache, tmp_path, monkeypatch):
    """1000 images in batches of 250: four passes of the backbone in two epochs, and the curves of training on the images."""
    monkeypatch.setattr("karst_bench.run.prepare.build_methods", lambda settings: [Beside()])
    passes, forward = [], CachedActivations.forward
    monkeypatch.setattr(CachedActivations, "forward", lambda self, x: passes.append(len(x)) or forward(self, x))
    records = []
    for split in (split_cached_activations, lambda net, backbone_mode: None):
        monkeypatch.setattr(training, "split_cached_activations", split)
        words = ["dataset=mini/digits", "method=linear", "recipe.epochs=2", "recipe.batch=250", "threads=1",
                 *one_block, f"paths.results={tmp_path / str(len(records))}", f"paths.cache={mini_cache}"]  # fmt: skip
        records.append(pipeline.run(settings_of(words)))
    assert passes == [250] * 4
    stored, plain = (record.curves.train_loss for record in records)
    assert stored == pytest.approx(plain, rel=1e-4) and stored[1] < stored[0]
    assert records[0].counts == records[1].counts and records[0].counts.trainable_params == 2 * 4 * 49 + 5 * 48
