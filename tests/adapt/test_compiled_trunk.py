"""Every method's trunk is one graph, compiled once for all class counts, and computes what the model computes."""

import copy

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from karst_bench.adapt.speed.compiled_trunk import CompiledTrunk
from karst_bench.adapt.timm_sites import classifier
from karst_bench.config.option_files import options

METHODS = [name for name in options("method") if name != "none"]


def gradients(net, trained, x):
    torch.manual_seed(0)
    return torch.autograd.grad(net.train()(x).square().sum(), trained, allow_unused=True)


def without_draws(net):
    """The model without dropout and drop-path."""
    for module in net.modules():
        for rate in ("p", "drop_prob"):
            if isinstance(getattr(module, rate, None), float):
                setattr(module, rate, 0.0)
    return net


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("family", ["vit", "swin"])
def test_one_graph_of_every_method(on_each, images, family, name):
    case = on_each(family, name)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = CompiledTrunk(case.net, key=(family, name), backend=counter)
    for _ in range(2):
        compiled.train()(images).square().sum().backward()
    assert compiled.compiled, "it fell back"
    assert counter.frame_count == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("family", ["vit", "swin"])
def test_a_compiled_step_has_the_gradients_of_the_plain_one(on_each, images, family, name):
    """In float64 and without what is drawn at every step. The compiler takes other forms than a plain step on a CPU."""
    net = without_draws(on_each(family, name).net.double())
    trained, x = [p for p in net.parameters() if p.requires_grad], images.double()
    plain = gradients(net, trained, x)
    compiled = CompiledTrunk(net, key=("gradients", family, name), backend="aot_eager")
    for ours, theirs in zip(gradients(compiled, trained, x), plain, strict=True):
        assert (ours is None) == (theirs is None)
        if theirs is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8 * float(theirs.abs().max()) + 1e-12)
    assert compiled.compiled, "it fell back"


def test_one_compilation_for_every_class_count(attached, images):
    """Three models that differ in their classes; the graph's numbers are the model's own."""
    counter, graphs = CompileCounterWithBackend("aot_eager"), []
    first = attached("vit", "method=lora", "method.dropout=0", "extra=rst", shallow=True).net
    for classes in (5, 3, 7):
        net = copy.deepcopy(first)
        net.reset_classifier(classes)
        compiled = CompiledTrunk(net, key=("classes",), backend=counter)
        trained = [p for p in net.parameters() if p.requires_grad]
        plain = gradients(net, trained, images)
        for ours, theirs in zip(gradients(compiled, trained, images), plain, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=2e-4, atol=2e-4)
        assert compiled.compiled and compiled(images).shape == (4, classes)
        assert list(compiled.state_dict()) == list(net.state_dict())
        assert classifier(net).out_features == classes
        graphs.append(counter.frame_count)
    assert graphs == [1, 1, 1]


def test_a_compiler_that_gives_up_leaves_the_step_as_it_is(tiny, images, caplog):
    """Where it has compiled too often as well, which is no error of the compiler's own kind; one line says so."""
    net = tiny("vit", shallow=True).train()
    compiled = CompiledTrunk(net, key=("too often",), backend="eager").train()
    with torch._dynamo.config.patch(recompile_limit=1):
        for count in (4, 3, 2):
            assert torch.equal(compiled(images[:count]), net(images[:count]))
    assert not compiled.compiled
    assert [record.message for record in caplog.records if "could not be compiled and runs as it is" in record.message]
