"""docs/adding_a_method.md: its method and every verb's example run as they stand there."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from karst_bench.adapt.attach import attach_methods
from karst_bench.adapt.counts import counts
from karst_bench.adapt.merge import merge
from karst_bench.methods.base import BlockHook, Method, WeightDelta
from karst_bench.nn.block_hook import HookState

PAGE = (Path(__file__).parents[2] / "docs" / "adding_a_method.md").read_text(encoding="utf-8")
FIRST, *EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.S)
NAMES = {"torch": torch, "nn": nn, "Tensor": Tensor, "WeightDelta": WeightDelta, "BlockHook": BlockHook, "HookState": HookState}


class Example(Method):
    """A method whose attach is one of the page's examples."""

    code = ""

    def attach(self, model: Any, artefact: Any) -> None:
        exec(compile(self.code, "adding_a_method.md", "exec"), NAMES | {"model": model})


def disturb(net: nn.Module) -> None:
    with torch.no_grad():
        for p in net.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(4)))


@pytest.mark.parametrize("family", ["vit", "swin"])
def test_the_whole_method_is_ia3(family: str, tiny: Any) -> None:
    scope: dict[str, Any] = {"__name__": __name__}
    exec(compile(FIRST, "adding_a_method.md", "exec"), scope)
    net, images = tiny(family), torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    before = net(images)
    method = scope["IA3"](name="ia3")
    model = attach_methods(net, [method])
    widths = [(site.d_out, site.role) for site in model.spec.having("qkv", "fc1")]
    assert counts(net, [method])["trainable_params"] == sum(2 * d // 3 if role == "qkv" else d for d, role in widths)
    torch.testing.assert_close(net(images), before)
    disturb(net)
    layers = {path: layer for path, layer in model.layers.items() if path.endswith("qkv")}
    layer = next(iter(layers.values()))
    x = torch.randn(3, layer.base.in_features, generator=torch.Generator().manual_seed(1))
    q, k, v = layer.base(x).chunk(3, -1)
    scales = [affine.scale for affine in layer.after]
    wanted = torch.cat([q, (1 + scales[0]) * k, (1 + scales[1]) * v], -1)
    torch.testing.assert_close(layer(x), wanted)
    adapted = net(images)
    torch.testing.assert_close(merge(net)(images), adapted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
@pytest.mark.parametrize("family", ["vit", "swin"])
def test_every_example_trains(number: int, family: str, tiny: Any) -> None:
    net, images = tiny(family), torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    method = Example(name="example")
    method.code = EXAMPLES[number]
    model = attach_methods(net, [method])
    disturb(net)
    adapted = net(images)
    adapted.sum().backward()
    trained = {name: p for name, p in model.trained().items() if "gate" not in name}
    assert (trained or "readout" in method.code) and all(p.grad is not None and p.grad.any() for p in trained.values())
    if not model.unmergeable:
        torch.testing.assert_close(merge(net)(images), adapted, atol=1e-4, rtol=1e-4)


def test_every_verb_is_on_the_page() -> None:
    from karst_bench.methods.base import AdaptedModel

    verbs = {name for name, value in vars(AdaptedModel).items() if callable(value) and not name.startswith("_")}
    assert verbs >= {"add_delta", "affine"} and all(re.search(rf"`(model\.)?{verb}\(", PAGE) for verb in verbs), verbs
