"""Where the rates of a method's settings arrive: how often in the tiny ViT of four blocks, and in which part of what it adds."""

import pytest
from torch import nn

from karst_bench.adapt.attach import attach_methods
from karst_bench.config.option_files import options
from karst_bench.methods.build import build_method
from karst_bench.report.suite import method_file

RATE, BLOCKS = 0.37, 4
DRAWN = ("dropout", "branch_drop", "drop_path")
# (method, key): (how often in a block, the part that draws), as the papers and their code have them: beside the MLP, or both
# halves; LoRA's on the input, HEAT's between the factors; SNELL's on all six linears but proj, its drop-path on all.
PLACES = {
    ("adapter_houlsby", "dropout"): (2, "drop"), ("adapter_noah", "dropout"): (1, "drop"),
    ("adapter_pfeiffer", "dropout"): (1, "drop"), ("adapter_plus", "dropout"): (1, "drop"),
    ("adapter_plus", "drop_path"): (1, ""), ("adaptformer", "dropout"): (1, "drop"), ("convpass", "dropout"): (2, "drop"),
    ("fact_tk", "dropout"): (4, "drop"), ("fact_tt", "dropout"): (4, "drop"), ("heat", "dropout"): (2, "drop_hidden"),
    ("lora", "dropout"): (2, "drop_input"), ("lora_all", "dropout"): (4, "drop_input"), ("noah", "dropout"): (3, "drop"),
    ("repadapter", "dropout"): (2, "drop"),
    ("snell", "dropout"): (5, "drop"), ("snell", "branch_drop"): (6, ""), ("snella", "dropout"): (5, "drop"),
    ("snella", "branch_drop"): (6, ""), ("spt_adapter", "dropout"): (5, "0"), ("spt_adapter", "branch_drop"): (6, ""),
    ("spt_lora", "dropout"): (5, "drop_input"), ("spt_lora", "branch_drop"): (6, ""), ("vpt_deep", "dropout"): (1, "drop"),
    ("vpt_shallow", "dropout"): (1 / BLOCKS, "drop"),
}  # fmt: skip


def node(name):
    return {key: value for key, value in method_file(name).items() if key != "suites"}


def test_every_method_that_draws_is_listed():
    own = {name for name in options("method") if "_target_" in method_file(name)}
    assert set(PLACES) >= {(name, key) for name in own for key in DRAWN if key in node(name)}


@pytest.mark.parametrize(("name", "key"), PLACES, ids=["-".join(place) for place in PLACES])
def test_a_rate_arrives_where_it_acts(tiny, name, key):
    method = build_method("method", node(name) | {key: RATE})
    net = tiny("vit")
    if method.scored:
        net = net.to("meta")  # all of its candidates
    model = attach_methods(net, [method])
    found = {path: module for path, module in model.net.named_modules()
             if RATE in (getattr(module, "p", None), getattr(module, "drop_path", None))}  # fmt: skip
    often, part = PLACES[name, key]
    assert len(found) == often * BLOCKS, sorted(found)
    if part:
        assert {path.rpartition(".")[2] for path in found} == {part} and all(isinstance(m, nn.Dropout) for m in found.values())
