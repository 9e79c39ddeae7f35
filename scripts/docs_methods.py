"""docs/methods.md from the code: python scripts/docs_methods.py

Every number is counted on a model without weights; the printed ones come from results/paper/.
"""

import copy
import csv
import inspect
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from karst_bench import files
from karst_bench.adapt import refuse_misfits
from karst_bench.adapt.counts import forward_macs
from karst_bench.adapt.layers import Residual
from karst_bench.adapt.model import AdaptedModel
from karst_bench.config.compose import compose, options, plain
from karst_bench.errors import UserError
from karst_bench.methods.base import Method
from karst_bench.methods.build import build_methods

ROOT = Path(__file__).resolve().parents[1]

PAGE = ROOT / "docs" / "methods.md"
BACKBONES = {"ViT-B/16": ("vit_base_patch16_224", "table1_vit_b16.csv"),
             "Swin-B": ("swin_base_patch4_window7_224", "table2_swin_b.csv")}  # fmt: skip
PRINTED = {
    "full": "Full", "linear": "Linear", "linear_sgd": "Linear", "bitfit": "BitFit", "vpt_deep": "VPT", "lora": "LoRA",
    "fact_tk": "FacT", "adaptformer": "AdaptFormer", "ssf": "SSF", "dtl": "DTL", "ka": "KA", "karst": "KARST",
    "karst_all": "KARST", "karst_block_c": "KARST", "karst_code": "KARST", "karst_code_ln": "KARST", "karst_scale": "KARST",
    "karst_swin_staged": "KARST",
}  # fmt: skip
WHY = {
    "bitfit": "The printed 0.20 counts the relative position tables, `method.rel_pos_bias=true`: 200,760.",
    "vpt_deep": "9,216 p (12,032 p on Swin-B), here p = 10; p differs by task. `tuned=paper` has a mean of 60.9: 561,690, "
    "the printed 0.56 M. On Swin-B 0.16 M is a mean p of 13.3.",
    "lora": "0.295 is printed cut, not rounded. q and v apart, or one A for q, k and v, count the same.",
    "adaptformer": "Bottleneck 8 gives the printed 0.16; the method's own default of 64 would be 1,189,632.",
    "ssf": "0.24 in the SSF paper includes the head.",
    "fact_tk": "The printed 0.07 is a mean over tasks: rank 32 (86,528) on 13 and rank 16 (30,976) on 6 is 68,985. On "
    "Swin-B, for which no code was published, the same mean is 134,952 with U and V for each stage and one core: 0.13, "
    "printed 0.14.",
    "karst": "Where and how finely outputs are re-scaled is not said. Channel-wise after proj and fc2, the reading of "
    "Eq. 2-4 used here, is 0.338 (printed 0.33) and 0.445. No reading gives all four numbers of Tables I-III.",
    "karst_all": "Eq. 4 after every adapted layer adds 0.17 M on ViT-B/16, where 0.03 M were printed.",
    "karst_block_c": "Rounds to both printed numbers, but one C for four layers is not what Eq. 3 says.",
    "karst_code": "72 scalars (144 on Swin-B) cannot make the printed 0.30 of KA into 0.33; the staged ranks give half of 0.45.",
    "karst_code_ln": "With the 38,400 LayerNorm scalars (57,600 on Swin-B) the printed 0.33 and 0.45 are cut, not rounded: the "
    "likeliest reading of what was run. Its re-scaling rows would then hold LayerNorm tuning too.",
    "karst_scale": "Fits 0.33; 0.433 on Swin-B does not fit 0.45.",
    "karst_swin_staged": "The published code's ranks (2, 2, 4, 8) give 0.28 where 0.45 was printed.",
    "repadapter": "Its paper prints 0.22 M, which is without the biases of its code (239,808).",
    "vera": "Its paper prints 24.6 K for ViT-B.",
    "convpass": "Its paper prints 0.33 M.",
    "dtl_plus": "36,864 + 768 k^2; its paper chooses k (3, 4 or 5) by task.",
}
LEGEND = """Trained scalars without the head; printed values, in millions, from `results/paper/`. *Merges*: plain layers compute
the same map, so inference costs nothing more; otherwise what one 224 x 224 image costs more on ViT-B/16, which takes
{macs:.2f} G multiply-adds without a method. Generated from the code by `python scripts/docs_methods.py`.

Any method takes `extra=rst` (channel-wise re-scaling after proj and fc2), `rst_scalar`, `rst_scale` or `rst_all`, and a
second method: `method=lora also=vpt_deep`. Where two cannot hold together, the run says why.
"""


def main() -> None:
    files.write(PAGE, render().encode(), once=False)
    print(f"wrote {PAGE.relative_to(ROOT)}")


def render() -> str:
    """The whole page."""
    facts = {name: facts_of(name) for name in options("method") if name != "none"}
    lines = ["# Methods", "", LEGEND.format(macs=_macs("ViT-B/16") / 1e9)]
    lines += ["| method | ViT-B/16 | printed | Swin-B | printed | merges | more multiply-adds |"]
    lines += ["|---|--:|--:|--:|--:|---|--:|", *(_row(name, fact) for name, fact in facts.items())]
    kinds: dict[type[Method], list[str]] = {}
    for name, fact in facts.items():
        kinds.setdefault(type(fact["methods"][0]), []).append(name)
    for kind, names in kinds.items():
        lines += _section(kind, {name: facts[name] for name in names})
    return "\n".join([*lines, ""])


def facts_of(name: str) -> dict[str, Any]:
    """What the page says about one method, read off an attached model without memory."""
    methods = build_methods(_settings(name))
    fact: dict[str, Any] = {"methods": methods, "extra": _settings(name)["extra"]["name"], "counts": {}}
    for backbone in BACKBONES:
        model = AdaptedModel(copy.deepcopy(_plain(backbone)))
        try:
            refuse_misfits(methods, model)
            fact["counts"][backbone] = sum(method.expected_params(model.spec) for method in methods)
        except UserError as error:
            fact["counts"][backbone] = str(error)
            continue
        if "merges" in fact:
            continue
        with torch.device("meta"):
            for method in methods:
                method.attach(model, None)
        fact["sites"] = list(dict.fromkeys(_sites(model)))
        fact["merges"] = not model.unmergeable
        fact["more"] = 0 if fact["merges"] else forward_macs(model.net, (224, 224)) - _macs(backbone)
    return fact


def _sites(model: AdaptedModel) -> Iterator[str]:
    roles = {site.path: site.role for site in model.spec.sites if site.rows is None}
    chunks = {(site.path, site.rows): site.role for site in model.spec.sites if site.rows is not None}
    for path, wrapper in model.layers.items():
        rows = [*wrapper.delta_rows, *wrapper.branch_rows]
        yield from (f"`{chunks.get((path, row), roles[path])}`" for row in rows)
        yield from (f"after `{roles[path]}`" for _ in wrapper.after)
        yield from (f"before `{roles[path]}`" for _ in wrapper.before)
    for name, module in model.net.named_modules():
        if isinstance(module, Residual):
            half = "attention" if name.endswith("drop_path1") else "MLP"
            yield from (f"{half} half, {position.replace('_', ' ')}, reading `{tap}`" for tap, position in module.places)
        kind = type(module).__name__
        if kind in ("WindowTokens", "Readout"):
            yield {"WindowTokens": "inside every window attention", "Readout": "read-out"}[kind]
        yield from (f"along the blocks (`{type(hook).__name__}`)" for hook in getattr(module, "hooks", ()))
    own = [name for name, p in model._own.items() if p.requires_grad]
    if len(own) == len(model._own):
        yield "every parameter of the backbone"
    else:
        yield from (f"own {name.rpartition('.')[2]} of `{roles.get(name.rpartition('.')[0], 'attn')}`" for name in own)


def _row(name: str, fact: Mapping[str, Any]) -> str:
    cells = [f"[`{name}`](#{name})"]
    for backbone in BACKBONES:
        count = fact["counts"][backbone]
        cells += [f"{count:,}" if isinstance(count, int) else "—", printed(name, backbone) or "—"]
    more = f"{fact['more'] / 1e6:,.0f} M ({100 * fact['more'] / _macs('ViT-B/16'):.2f} %)"
    return f"| {' | '.join([*cells, 'yes' if fact['merges'] else 'no', '0' if fact['merges'] else more])} |"


def _section(kind: type[Method], facts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One class: its equation once, then each of its configurations."""
    equation, *rest = (inspect.getdoc(kind) or "").split("\n")
    title = f"## {kind.label}" + (f" [[arXiv {kind.paper}](https://arxiv.org/abs/{kind.paper})]" if kind.paper else "")
    lines = ["", title, "", "```text", " ".join(equation.split()), "```", *rest]
    for name, fact in facts.items():
        lines += ["", f'<a id="{name}"></a>`method={name}`', "", *_about(name, fact)]
    return lines


def _about(name: str, fact: Mapping[str, Any]) -> Iterator[str]:
    method, *extra = fact["methods"]
    values = {key: value for key, value in vars(method).items() if key != "name"}
    yield f"- Defaults: {', '.join(f'`{key}={value}`' for key, value in values.items()) or 'no hyper-parameters'}"
    for rescaling in extra:
        equation = " ".join((inspect.getdoc(type(rescaling)) or "").split("\n")[0].split())
        yield f"- With `extra={fact['extra']}`: `{equation}`"
    for backbone, said in fact["counts"].items():
        if isinstance(said, str):
            yield f"- {backbone}: refused. {said}"
            continue
        shown = printed(name, backbone)
        number = f"{said:,} trained scalars" + (f" (printed: {shown} M)" if shown else "")
        yield f"- {backbone}: {number}"
    yield f"- Sites: {', '.join(fact['sites']) or 'the head alone'}"
    if name in WHY:
        yield f"- Count: {WHY[name]}"
    start = all(part.identity_at_init for part in fact["methods"])
    yield f"- Start: {'the unadapted model' if start else 'not the unadapted model'}"
    yield f"- Merge: {'exact' if fact['merges'] else 'none: no plain layer computes it'}"


def printed(name: str, backbone: str) -> str | None:
    """The paper's millions for this method, as printed; None where it prints none."""
    tables = {"ViT-B/16": [BACKBONES["ViT-B/16"][1], "table3_rescaling.csv"], "Swin-B": [BACKBONES["Swin-B"][1]]}
    for table in tables[backbone]:
        with (ROOT / "results" / "paper" / table).open(newline="") as file:
            for row in csv.DictReader(file):
                if row["method"] == PRINTED.get(name):
                    return row["params_m"] or None
    return None


@cache
def _plain(backbone: str) -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(BACKBONES[backbone][0], num_classes=10)


@cache
def _macs(backbone: str) -> int:
    return forward_macs(_plain(backbone), (224, 224))


@cache
def _settings(name: str) -> dict[str, Any]:
    return plain(compose([f"method={name}"]))


if __name__ == "__main__":
    main()
