"""What a method owes on any model it is attached to; a refusal leaves the model as it was."""

import copy
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy

import karst_bench
from benchmarks.backbones import off_start
from karst_bench.adapt.layers import AdaptedLayer
from karst_bench.adapt.merge import mergeable
from karst_bench.adapt.readout import Readout
from karst_bench.methods.build import build_methods

HYPER = {"karst": {"m": 4, "r": 2}, "lst": {"r": 2}, "oft": {"b": 4}, "spt": {"budget": 2000}}


def same(got, wanted):
    """Equal but for the order in which a product of tiny matrices is summed, which depends on where they lie in memory."""
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


@dataclass
class Case:
    """An unadapted model, images for it, and what the model said of them."""

    net: torch.nn.Module
    images: torch.Tensor

    def __post_init__(self):
        self.net.eval()
        with torch.no_grad():
            self.before = self.net(self.images)
        self.twin = copy.deepcopy(self.net)
        self.keys = list(self.net.state_dict())

    def is_untouched(self):
        assert list(self.net.state_dict()) == self.keys
        assert all(p.requires_grad for p in self.net.parameters())
        with torch.no_grad():
            same(self.net(self.images), self.before)


def attach(case, name):
    """The methods that were attached; on a refusal the model is as it was."""
    hyper = next((values for start, values in HYPER.items() if name.startswith(start)), {})
    labels = torch.arange(len(case.images))
    try:
        karst_bench.attach(case.net, name, seed=1, scoring=[(case.images, labels)], **hyper)
    except karst_bench.UserError as error:
        case.is_untouched()
        assert "\n" not in str(error) and len(str(error)) < 400, error
        raise
    case.net.eval()
    return build_methods(case.net._adapted_model.method_settings)


def check(case, name, path):
    """Attach, start, gradients where they are meant, count, effect, copy, file, merge, unmerge, detach."""
    methods = attach(case, name)
    net, x, model = case.net, case.images, case.net._adapted_model
    trained, searched = model.trained(), any(method.scored or method.search_stages() for method in methods)
    start = net(x).detach()
    assert start.shape == case.before.shape
    if all(m.identity_at_init for m in methods) and not any(isinstance(part, Readout) for part in net.modules()):
        torch.testing.assert_close(start, case.before, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(start[0], start[1], atol=1e-5), "one answer for every image"
    if not searched:
        assert sum(p.numel() for p in trained.values()) == sum(m.expected_params(model.spec) for m in methods)
    _disturb(trained)
    _gradients(net, x, trained | model.head(), exact=not searched)
    _every_layer_is_called(net, x)
    shaken = net(x).detach()
    assert not trained or not torch.allclose(shaken, start, atol=1e-6), "what trains changes nothing"
    same(copy.deepcopy(net)(x), shaken)
    karst_bench.save_adapter(net, path)
    same(karst_bench.load_adapter(copy.deepcopy(case.twin), path).eval()(x), shaken)
    if mergeable(net):
        _merges(case, shaken)
    karst_bench.detach(net)
    assert list(net.state_dict()) == case.keys and all(p.requires_grad for p in net.parameters())


@torch.no_grad()
def _disturb(trained):
    generator = torch.Generator().manual_seed(5)
    for p in trained.values():
        p.add_(0.05 * torch.randn(p.shape, generator=generator))


def _gradients(net, x, wanted, *, exact):
    net.train()
    net.zero_grad()
    for seed in range(3):  # drop-path may take a branch from every image
        torch.manual_seed(seed)
        cross_entropy(net(x), torch.arange(len(x))).backward()
    live = {id(p) for p in wanted.values()}
    assert all(p.requires_grad == (id(p) in live) for p in net.parameters())
    assert all(p.grad is None for p in net.parameters() if id(p) not in live)
    without = [name for name, p in wanted.items() if p.grad is None or (not p.grad.any() and p.numel() > 1)]
    without = [name for name in without if ".rel_pos." not in name]  # a class token has no position
    assert not (exact and without), f"no gradient: {without[:3]}"
    net.zero_grad()
    net.eval()


@torch.no_grad()
def _every_layer_is_called(net, x):
    """A wrapper that timm passes by adapts nothing, whatever the rest does."""
    called, handles = set(), []
    layers = {path: module for path, module in net.named_modules() if isinstance(module, AdaptedLayer)}
    for path, module in layers.items():
        handles.append(module.register_forward_hook(lambda *_, path=path: called.add(path)))
    net(x)
    for handle in handles:
        handle.remove()
    assert called == layers.keys()


@torch.no_grad()
def _merges(case, shaken):
    net, x = case.net, case.images
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    merged = karst_bench.merge(net)(x)
    torch.testing.assert_close(merged, shaken, atol=1e-4, rtol=1e-3)
    assert list(net.state_dict()) == case.keys, "plain keys"
    plain = copy.deepcopy(case.twin)
    off_start(plain)
    plain.load_state_dict(net.state_dict())
    same(plain(x), merged)
    karst_bench.unmerge(net)
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())
    same(net(x), shaken)
