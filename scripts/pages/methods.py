"""docs/methods.md from the code.

Every number is counted on a model without weights; titles, printed counts and their reasons stand in conf/method/*.yaml.
"""

import copy
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from functools import cache
from typing import Any

import timm
import torch
from torch import nn

from karst_bench.adapt.attach import attach_methods, refuse_misfits
from karst_bench.adapt.block_hooks import BlockHooks
from karst_bench.adapt.counts import forward_macs
from karst_bench.adapt.model import TimmAdaptedModel
from karst_bench.adapt.residual import Residual
from karst_bench.adapt.timm_sites import model_spec
from karst_bench.config.compose import settings_of
from karst_bench.config.option_files import options
from karst_bench.errors import UserError
from karst_bench.methods.base import Method, ModelSpec
from karst_bench.methods.build import build_methods

BACKBONES = {"ViT-B/16": ("vit_b16", "vit_base_patch16_224"), "Swin-B": ("swin_b", "swin_base_patch4_window7_224")}
LEGEND = """Trained scalars without the head; printed values, in millions, from `results/paper/`. *Merges*: plain layers compute
the same map, so inference costs nothing more; otherwise what one 224 x 224 image costs more on ViT-B/16, which takes
{macs:.2f} G multiply-adds without a method. Generated from the code by `python scripts/docs_methods.py`.

Any method takes `extra=rst` (channel-wise re-scaling after proj and fc2), `rst_scalar`, `rst_scale` or `rst_all`, and a
second method: `method=lora also=vpt_deep`. Where two cannot hold together, the run says why.

Any method takes `regularizer=pace` (PACE, [arXiv 2409.17137](https://arxiv.org/abs/2409.17137)): in training, what the method adds
to each linear layer, or its adapters within blocks, is multiplied by 1 + sigma_i n, n ~ N(0, 1) for each image and channel, and the
logits of two copies of an image shall agree: CE(z1, y) + lambda mean |z1 - z2|^2. It adds no parameters, changes nothing in
evaluation and merges as its method does. Where a method has neither (prompts, `full`, DTL, LST), the head alone is noised, which
the record's notes say. `regularizer.mode=lazy` takes half a batch at every k-th step, `fast` the logits of an epoch before.
KARST with PACE has no published number.
"""


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
    settings = _settings(name)
    fact: dict[str, Any] = {"methods": methods, "about": settings["method"]["about"], "extra": settings["extra"]["name"],
                            "counts": {}, "active": {}}  # fmt: skip
    for backbone in BACKBONES:
        try:
            refuse_misfits(methods, _spec(backbone))
            fact["counts"][backbone] = sum(method.expected_params(_spec(backbone)) for method in methods)
            fact["active"][backbone] = next((n for method in methods if (n := method.active_params(_spec(backbone)))), None)
        except UserError as error:
            fact["counts"][backbone] = str(error)
    backbone = next(name for name, count in fact["counts"].items() if isinstance(count, int))
    net = copy.deepcopy(_plain(backbone))
    with torch.device("meta"):
        model = attach_methods(net, methods)
    fact["sites"] = list(dict.fromkeys(_sites(model)))
    fact["merges"] = not model.unmergeable
    fact["more"] = 0 if fact["merges"] else forward_macs(net, (224, 224)) - _macs(backbone)
    return fact


def _sites(model: TimmAdaptedModel) -> Iterator[str]:
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
            yield from (f"{half} half, {position.replace('_', ' ')}, reading `{reads}`" for reads, position in module.places)
        kind = type(module).__name__
        if kind in ("WindowTokens", "Readout"):
            yield {"WindowTokens": "inside every window attention", "Readout": "read-out"}[kind]
        if isinstance(module, BlockHooks):
            yield from (f"along the blocks (`{type(hook).__name__}`)" for hook in module.hooks)
    own = model.own_trained()
    if len(own) == len(model.spec.names):
        yield "every parameter of the backbone"
    else:
        yield from (f"own {name.rpartition('.')[2]} of `{roles.get(name.rpartition('.')[0], 'attn')}`" for name in own)


def _row(name: str, fact: Mapping[str, Any]) -> str:
    cells = [f"[`{name}`](#{name})"]
    for backbone in BACKBONES:
        count = fact["counts"][backbone]
        cells += [f"{count:,}" if isinstance(count, int) else "—", printed(fact["about"], backbone) or "—"]
    more = f"{fact['more'] / 1e6:,.0f} M ({100 * fact['more'] / _macs('ViT-B/16'):.2f} %)"
    return f"| {' | '.join([*cells, 'yes' if fact['merges'] else 'no', '0' if fact['merges'] else more])} |"


def _section(kind: type[Method], facts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One class: its equation once, then each of its configurations."""
    equation, *rest = (inspect.getdoc(kind) or "").split("\n")
    lines = ["", _heading([fact["about"] for fact in facts.values()]), "", "```text", " ".join(equation.split()), "```", *rest]
    for name, fact in facts.items():
        lines += ["", f'<a id="{name}"></a>`method={name}`', "", *_listed(fact)]
    return lines


def _heading(abouts: Sequence[Mapping[str, Any]]) -> str:
    """The titles of a class's methods, of several their part before a bracket, and their papers."""
    titles = [about["title"] if len(abouts) == 1 else about["title"].partition(" (")[0] for about in abouts]
    papers = dict.fromkeys(about["paper"] for about in abouts if about.get("paper"))
    links = [f"[[arXiv {paper}](https://arxiv.org/abs/{paper})]" for paper in papers]
    return " ".join(["##", ", ".join(dict.fromkeys(titles)), *links])


def _listed(fact: Mapping[str, Any]) -> Iterator[str]:
    method, *extra = fact["methods"]
    values = {field.name: getattr(method, field.name) for field in fields(method) if field.name != "name"}
    yield f"- Defaults: {', '.join(f'`{key}={value}`' for key, value in values.items()) or 'no hyper-parameters'}"
    for rescaling in extra:
        equation = " ".join((inspect.getdoc(type(rescaling)) or "").split("\n")[0].split())
        yield f"- With `extra={fact['extra']}`: `{equation}`"
    for backbone, said in fact["counts"].items():
        if isinstance(said, str):
            yield f"- {backbone}: refused. {said}"
            continue
        shown = printed(fact["about"], backbone)
        number = f"{said:,} trained scalars" + (f" (printed: {shown} M)" if shown else "")
        if active := fact["active"].get(backbone):
            number += f", of which {active:,} take part at a time in the mean"
        yield f"- {backbone}: {number}"
    yield f"- Sites: {', '.join(fact['sites']) or 'the head alone'}"
    if why := fact["about"].get("why"):
        yield f"- Count: {why}"
    start = all(part.identity_at_init for part in fact["methods"])
    yield f"- Start: {'the unadapted model' if start else 'not the unadapted model'}"
    yield f"- Merge: {'exact' if fact['merges'] else 'none: no plain layer computes it'}"


def printed(about: Mapping[str, Any], backbone: str) -> str | None:
    """The paper's millions for this method, as printed; None where it prints none."""
    return (about.get("printed") or {}).get(BACKBONES[backbone][0])


@cache
def _plain(backbone: str) -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(BACKBONES[backbone][1], num_classes=10)


@cache
def _spec(backbone: str) -> ModelSpec:
    return model_spec(_plain(backbone))


@cache
def _macs(backbone: str) -> int:
    return forward_macs(_plain(backbone), (224, 224))


@cache
def _settings(name: str) -> dict[str, Any]:
    return settings_of([f"method={name}"]).as_config()
