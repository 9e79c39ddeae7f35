"""After a merge, a refused load or an exception at any point of attach, the model is as it was and attach works again."""

import contextlib

import pytest
import torch
from test_anywhere import attached
from torch import nn
from zoo import HYPER, same

import karst_bench
from benchmarks.backbones import build, images_for
from karst_bench import UserError
from karst_bench.adapt import adapter_load
from karst_bench.adapt import attach as attaching
from karst_bench.adapt.journal import Journal
from karst_bench.adapt.merge import mergeable
from karst_bench.adapt.model import TimmAdaptedModel
from karst_bench.config.option_files import options

METHODS = [name for name in options("method") if name != "none"]
LABELS = ("ViT, class token", "Swin", "EVA-02, q, k and v apart")
FEW = ("lora", "bitfit", "adaptformer", "vpt_deep", "dtl_plus", "fact_tt")
CASES = [pytest.param(LABELS[0], FEW, id="few"), *(pytest.param(label, METHODS, marks=pytest.mark.slow) for label in LABELS)]
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")


class PlantedError(Exception):
    """No refusal: what a bug or an interrupt would raise."""


def picture(net):
    """All that attaching may change: modules by path, their own attributes, hooks, flags and mode."""
    seen = {}
    for path, module in net.named_modules():
        own = {name for name in vars(module) if name not in ("_adapted_model", "_adapter_shelf")}
        values = {name: getattr(module, name) for name in own if isinstance(getattr(module, name), bool | int | str)}
        flags = {name: (id(p), p.requires_grad) for name, p in module.named_parameters(recurse=False)}
        seen[path] = type(module), own, values, flags, [len(getattr(module, kind)) for kind in HOOKS]
    return seen


def attach(net, name, images):
    hyper = next((values for start, values in HYPER.items() if name.startswith(start)), {})
    return karst_bench.attach(net, name, seed=1, scoring=[(images, torch.arange(len(images)))], **hyper)


def planted(monkeypatch, owner, name, at):
    """Lets the call number `at` (from 0) do its work and then fail; returns the calls so far."""
    real, calls = getattr(owner, name), []

    def fails(*args, **kwargs):
        found = real(*args, **kwargs)
        calls.append(name)
        if len(calls) == at + 1:
            raise PlantedError(name)
        return found

    monkeypatch.setattr(owner, name, fails)
    return calls


def is_as_it_was(net, before, images, logits):
    assert picture(net) == before and not hasattr(net, "_adapted_model")
    with torch.no_grad():
        same(net(images), logits)


@pytest.mark.parametrize(("label", "names"), CASES)
def test_an_exception_anywhere_in_attach_takes_everything_back(label, names, monkeypatch):
    """Planted after the first, the middle and the last change that each method makes to the model."""
    net, images = build(label), images_for(label)
    before, logits = picture(net), net(images).detach()
    for name in names:
        with monkeypatch.context() as patch:
            changes = planted(patch, Journal, "set", -1)
            with contextlib.suppress(UserError):
                attach(net, name, images)
                karst_bench.detach(net)
        is_as_it_was(net, before, images, logits)
        for at in sorted({0, len(changes) // 2, len(changes) - 1} if changes else ()):
            with monkeypatch.context() as patch:
                planted(patch, Journal, "set", at)
                with pytest.raises((PlantedError, UserError)):
                    attach(net, name, images)
            assert picture(net) == before, (name, at)
    is_as_it_was(net, before, images, logits)
    attach(net, "lora", images)


def test_what_was_a_plain_attribute_is_no_child_afterwards():
    """EVA-02's `qkv` is a plain None, and a child in its place while a method is attached."""
    net = build(LABELS[2])
    before = picture(net)
    karst_bench.detach(karst_bench.attach(net, "lora"))
    assert picture(net) == before
    karst_bench.merge(karst_bench.attach(net, "lora"))
    assert {path: own for path, (_, own, *_) in picture(net).items()} == {path: own for path, (_, own, *_) in before.items()}
    assert karst_bench.unmerge(net)(images_for(LABELS[2])).isfinite().all()


STAGES = [
    (attaching, "TimmAdaptedModel"), (TimmAdaptedModel, "freeze"), (attaching, "refuse_misfits"), (Journal, "hook"),
    (attaching, "_split_bias_norms"), (nn.Module, "train"), (TimmAdaptedModel, "add_delta"), (TimmAdaptedModel, "block_hook"),
    (TimmAdaptedModel, "unfreeze"), (TimmAdaptedModel, "share"),
]  # fmt: skip


@pytest.mark.parametrize(("owner", "name"), STAGES, ids=[name for _, name in STAGES])
def test_each_stage_of_attach_may_fail(owner, name, monkeypatch):
    method = {"add_delta": "dora", "block_hook": "vpt_deep", "unfreeze": "bitfit", "share": "fact_tt"}.get(name, "dtl_plus")
    net, images = build(LABELS[0], dynamic_img_size=True), images_for(LABELS[0])
    before, logits = picture(net), net(images).detach()
    for wrapped in ({}, {"adapter_name": "first"}):
        with monkeypatch.context() as patch:
            calls = planted(patch, owner, name, 0)
            with pytest.raises(PlantedError):
                karst_bench.attach(net, method, **wrapped)
        assert calls, "the stage is one of this method's"
        is_as_it_was(net, before, images, logits)
        karst_bench.detach(karst_bench.attach(net, method, **wrapped))
    is_as_it_was(net, before, images, logits)


@pytest.mark.parametrize(("label", "names"), CASES)
def test_a_merged_model_is_plain_and_takes_every_method(label, names):
    images = images_for(label)
    for name in names:
        net = build(label)
        plain = {path: (kind, own) for path, (kind, own, *_) in picture(net).items()}
        try:
            attached(net, name, images)
        except UserError:
            continue
        if not mergeable(net):
            karst_bench.detach(net)
        else:
            logits = karst_bench.merge(net)(images).detach()
            assert {path: (kind, own) for path, (kind, own, *_) in picture(net).items()} == plain, name
            assert "karst" not in dict(net.named_children())
            attach(net, name, images)
            assert net(images).isfinite().all()
            karst_bench.detach(net)
            same(net(images), logits)
            karst_bench.detach(karst_bench.merge(attach(net, "lora", images)))
            assert all(p.requires_grad for p in net.parameters()), name
        attach(net, "lora", images)


@pytest.mark.parametrize(("label", "names"), [(LABELS[0], ("lora", "bitfit", "dtl_plus")), CASES[1]])
def test_a_refused_load_leaves_a_model_that_can_be_attached_to(label, names, tmp_path, monkeypatch):
    """Another shape, another backbone's weights, and a copy that breaks off."""
    images, path = images_for(label), tmp_path / "adapter.safetensors"
    for name in names:
        net = attached(build(label), name, images)
        karst_bench.save_adapter(net, path)
        others = {"shape": build(label, depth=1), "weights": build(label, seed=3), "planted": build(label)}
        if name in ("linear", "linear_sgd", "full"):  # what they train fits more than one backbone
            others = {"planted": others["planted"]}
        for kind, other in others.items():
            before, logits = picture(other), other(images).detach()
            with monkeypatch.context() as patch:
                if kind == "planted":
                    planted(patch, adapter_load, "copy_tensors", 0)
                with pytest.raises(PlantedError if kind == "planted" else UserError):
                    karst_bench.load_adapter(other, path)
            is_as_it_was(other, before, images, logits)
            attach(other, "lora", images)
