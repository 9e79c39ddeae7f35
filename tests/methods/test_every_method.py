"""What every method owes, on both families: a new methods/foo.py with conf/method/foo.yaml is tested by being there."""

import copy

import pytest
import torch

import karst_bench
from benchmarks.fake_gpu import forward, forward_and_backward
from karst_bench.adapt.counts import counts
from karst_bench.adapt.merge import merge, mergeable, unmerge
from karst_bench.adapt.model import TimmAdaptedModel
from karst_bench.adapt.readout import Readout
from karst_bench.config.option_files import option_file, options
from karst_bench.errors import UserError

METHODS = [name for name in options("method") if name != "none"]


def of_its_own(name):
    """Whether a method's file names its class; the others are settings of one that does, and slow."""
    return "_target_" in option_file("method", name).read_text()


CASES = [pytest.param((family, name), id=f"{family}-{name}", marks=() if of_its_own(name) else pytest.mark.slow)
         for family in ("vit", "swin") for name in METHODS]  # fmt: skip


@pytest.fixture(params=CASES)
def named(request):
    """(family, method): one after the other."""
    return request.param


@pytest.fixture
def case(named, on_each):
    """The method on a fresh tiny model; skipped where it says, with a reason, that it does not fit."""
    return on_each(*named)


@pytest.fixture
def small(named, attached, on_each):
    """The same on half the blocks, where the method takes them: HEAT has a rank for each of four stages."""
    try:
        return attached(named[0], f"method={named[1]}", shallow=True)
    except UserError:
        return on_each(*named)


def family_of(case):
    return case.model.spec.family


def reference(case, tiny):
    """The unadapted model with the read-out of the adapted one."""
    net = tiny(family_of(case))
    for module in case.net.modules():
        if isinstance(module, Readout):
            TimmAdaptedModel(net).readout(module.pool or "own", norm=copy.deepcopy(module.norm))
    return net.eval()


@torch.no_grad()
def test_start(case, tiny, images, record_property):
    """It counts as its formula says, all of that trains, and the model starts where the method claims it does."""
    counted = counts(case.net, case.methods)
    assert counted["trainable_params"] == sum(method.expected_params(case.model.spec) for method in case.methods)
    assert counted["head_params"] == sum(p.numel() for p in case.net.get_classifier().parameters())
    live = {id(p) for p in case.net.parameters() if p.requires_grad}
    assert live == {id(p) for p in (case.model.trained() | case.model.head()).values()}
    drift = (case.net(images) - reference(case, tiny)(images)).abs().max().item()
    record_property("drift_at_init", drift)
    if all(method.identity_at_init for method in case.methods):
        assert drift < 1e-5
    else:
        assert 0 < drift < float("inf"), "a start that does move nothing is the identity: say so"


def test_training(small, images, train):
    """Everything that trains moves within two steps, nothing else does, and six more steps lower the loss."""
    before = {name: p.detach().clone() for name, p in small.net.named_parameters()}
    first, *_ = train(small, images, steps=2)
    moving = small.model.trained() | small.model.head()
    unmoved = [name for name, p in moving.items() if torch.equal(p, before[name]) and not _taken_away(small, name)]
    assert not unmoved, f"no gradient in two steps: {unmoved}"
    frozen = [name for name, p in small.net.named_parameters() if name not in moving]
    assert all(torch.equal(small.net.get_parameter(name), before[name]) for name in frozen)
    assert all(small.net.get_parameter(name).grad is None for name in frozen)
    assert min(train(small, images, steps=6)[-3:]) < first


def _taken_away(case, name):
    """One shift for all channels of the residual stream: every norm behind it takes means away, its gradient is rounding."""
    streams = {f"{site.path}.after.0.shift" for site in case.model.spec.having("fc2", "proj")}
    return name in streams and case.net.get_parameter(name).numel() == 1


@pytest.mark.usefixtures("fake_cuda")
def test_a_gpu_is_never_waited_for(small, images):
    """Forward and backward read no value on the host, and nothing that they make lies on the CPU; in bf16, as on a GPU, the ViT's
    forward, as both families' backward is followed without precision.

    Nor does a norm's backward want the bias's gradient without the weight's, which CUDA cannot always give.
    """
    for method in small.methods:
        method.before_step(0, 1)
    if family_of(small) == "vit":
        assert not forward(copy.deepcopy(small.net), images).on_cpu
    watched, grads = forward_and_backward(small.net, images, methods=small.methods)
    assert not watched.on_cpu
    assert all(grad is not None and grad.device.type == "meta" for grad in grads)
    masks = [args[-1] for name, args in watched.operations if name.startswith("native_layer_norm_backward")]
    assert not [mask for mask in masks if not mask[1] and mask[2]]


@torch.no_grad()
def test_merge(small, images, tiny, shake):
    net = shake(small).net
    if not mergeable(net):
        with pytest.raises(UserError, match="cannot be merged"):
            merge(net)
        return
    state = {name: t.clone() for name, t in net.state_dict().items()}
    adapted = net(images)
    merged = merge(net)(images)
    assert (merged - adapted).abs().max() <= 1e-4 * max(1.0, adapted.abs().max().item())
    plain = tiny(family_of(small), shallow=small.shallow)
    assert list(plain.state_dict()) == list(net.state_dict()), "a merged model has timm's own keys"
    plain.load_state_dict(net.state_dict())
    assert torch.equal(plain(images), merged)
    unmerge(net)
    assert state.keys() == net.state_dict().keys()
    assert all(torch.equal(t, state[name]) for name, t in net.state_dict().items()), "bit by bit"
    assert torch.equal(net(images), adapted)


@torch.no_grad()
def test_save_load_and_copy(small, images, tiny, shake, tmp_path):
    """Only what was trained is stored, and it is all that is needed."""
    shake(small)
    path = karst_bench.save_adapter(small.net, tmp_path / "adapter.safetensors")
    loaded, logits = karst_bench.load_adapter(tiny(family_of(small), shallow=small.shallow), path).eval(), small.net(images)
    assert torch.equal(loaded(images), logits)
    twin = copy.deepcopy(small.net)  # as a sweep or an average of weights needs, after a forward pass too
    assert torch.equal(twin(images), logits)
    assert not {id(p) for p in twin.parameters()} & {id(p) for p in small.net.parameters()}
    counted = counts(small.net, small.methods)
    stored = 4 * (counted["trainable_params"] + counted["head_params"])
    stored += sum(tensor.nbytes for found in small.model.artefacts.values() for tensor in found.tensors.values())
    names = len(small.model.trained()) + len(small.model.head())
    names += sum(len(found.tensors) for found in small.model.artefacts.values())
    assert stored <= path.stat().st_size <= stored + 8192 + 256 * names  # and the header: names and settings
