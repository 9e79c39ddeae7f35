"""What a trained adapter is, for whoever finds it: written into its header by a run, and shown as a card in a folder."""

from collections.abc import Mapping
from typing import Any

import msgspec

ABOUT = "about"  # the header's text that holds it


class AboutBackbone(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The backbone's group of a configuration. weights: pretrained, none or a file's name; sha256: of that file."""

    name: str
    timm_name: str
    tag: str | None = None
    model_args: dict[str, Any] = {}
    input_size: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    weights: str | None = None
    sha256: str | None = None


class AboutDataset(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What it was trained on. transform: how a test image is brought to size; white: the level that is white in pictures of
    more than 8 bits, where the set says one; class_names: by label."""

    name: str
    classes: int
    transform: str | None = None
    white: float | None = None
    class_names: tuple[str, ...] = ()
    licence: str | None = None
    list_sha256: str | None = None


class AboutScore(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Top-1 in per cent of n images of a split, as the record has it."""

    split: str
    top1_pct: float
    n: int


class AdapterAbout(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All of it; what is not known is absent. mean, std: of the normalisation that was used, `normalization` its name."""

    backbone: AboutBackbone | None = None
    dataset: AboutDataset | None = None
    normalization: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    seed: int | None = None
    scores: tuple[AboutScore, ...] = ()
    record: str | None = None
    suite: str | None = None
    versions: dict[str, str] = {}


def about_text(about: AdapterAbout) -> str:
    """Its JSON, keys sorted."""
    return msgspec.json.encode(about, order="sorted").decode()


def card(about: AdapterAbout, *, method: str, settings: Mapping[str, Any], facts: Mapping[str, str]) -> str:
    """The model card (Markdown with the hub's YAML head) of an adapter folder. facts: more rows, by title."""
    backbone, dataset = about.backbone, about.dataset
    base = backbone.timm_name if backbone else facts["architecture"].partition(",")[0]
    tagged = "." in base  # timm's name with a tag says which weights
    rows = {"method": method, "backbone": base} | dict(facts)
    if backbone and backbone.sha256:
        rows["backbone's weights, SHA-256"] = f"`{backbone.sha256}`"
    if dataset:
        rows["data"] = f"{dataset.name}, {dataset.classes} classes"
    for score in about.scores:
        rows[f"top-1, {score.split}"] = f"{score.top1_pct:.2f} % of {score.n} images"
    if about.record:
        rows["record"] = f"`{about.record}`"
    if about.versions:
        rows["versions"] = ", ".join(f"{name} {version}" for name, version in sorted(about.versions.items()))
    hyper = {key: value for key, value in settings["method"].items() if key not in ("about", "_target_", "name")}
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    values = "\n".join(f"| `{key}` | `{value}` |" for key, value in sorted(hyper.items())) or "| - | - |"
    return f"""---
library_name: karst_bench
{f"base_model: timm/{base}" if tagged else "# base_model: see the hash of its weights below"}
pipeline_tag: image-classification
tags: [karst_bench, peft, {method.split("+")[0]}]
---

# {method} on {dataset.name if dataset else base}

What was trained beside a frozen backbone: the method's parameters and the classifier. The backbone's own weights are not here.

| | |
|---|---|
{table}

| hyper-parameter | value |
|---|---|
{values}

```python
import timm, karst_bench

model = {_created(base, backbone, dataset, pretrained=tagged)}
karst_bench.load_adapter(model, "FOLDER")  # refuses another backbone, missing or extra tensors, values that are not finite
karst_bench.merge(model)                   # plain timm layers, where the method merges
```
{_names(dataset)}"""


def _created(base: str, backbone: AboutBackbone | None, dataset: AboutDataset | None, *, pretrained: bool) -> str:
    """The line that makes the backbone; without a tag it says nothing of where its weights come from."""
    words = [f'"{base}"', *(["pretrained=True"] if pretrained else []), f"num_classes={dataset.classes if dataset else 'CLASSES'}"]
    words += [f"{key}={value!r}" for key, value in (backbone.model_args if backbone else {}).items()]
    made = f"timm.create_model({', '.join(words)})"
    return made if pretrained else f"{made}  # with the weights that the hash above is of"


def _names(dataset: AboutDataset | None) -> str:
    if dataset is None or not dataset.class_names:
        return ""
    return "\nClasses, by label: " + ", ".join(dataset.class_names) + ".\n"
