"""What `action=` can ask for besides training: describe, evaluate, predict, merge."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from torch import nn

from karst_bench import files, load_adapter
from karst_bench.adapt import counts as counting
from karst_bench.adapt.adapter_about import about_text
from karst_bench.adapt.adapter_file import read_adapter_header
from karst_bench.adapt.adapter_folder import save_folder
from karst_bench.adapt.attach import attach_methods, detach_methods
from karst_bench.adapt.backbone import build_backbone, built_with
from karst_bench.adapt.export_program import export_program
from karst_bench.adapt.merge import merge, mergeable, merged
from karst_bench.adapt.peft_folder import to_peft
from karst_bench.adapt.weights_file import find_weights
from karst_bench.config.settings import Settings
from karst_bench.engine.evaluate import top1
from karst_bench.errors import UserError
from karst_bench.methods.build import build_methods
from karst_bench.records.adapter_check import check_adapter
from karst_bench.run.described import known_class_names
from karst_bench.run.diagnosing import diagnostic_lines, diagnostics_of, write_diagnostics
from karst_bench.run.pipeline import run
from karst_bench.run.predicting import hand_out, predictions_of
from karst_bench.run.prepare import method_settings, pick_device, prepare, use_threads, with_own_values
from karst_bench.tensors_file import to_safetensors

EXPORTS = ("onnx", "torch", "folder", "peft")


def act(settings: Settings) -> object:
    """Does what `action=` says. Raises: UserError for bad input."""
    actions: dict[str, Callable[[Settings], Any]] = {
        "train": run, "describe": describe, "evaluate": evaluate, "predict": predict, "merge": merge_adapter,
        "export": export_adapter, "diagnose": diagnose,
    }  # fmt: skip
    return actions[settings.action](settings)


def describe(settings: Settings) -> dict[str, Any]:
    """Sites and counts on the meta device, without data and weights; the last line of stdout is one JSON object."""
    settings = with_own_values(settings)
    size = (settings.backbone["input_size"],) * 2
    methods = build_methods(method_settings(settings))
    with torch.device("meta"):
        net = build_backbone(settings.backbone, classes=settings.dataset["classes"], weights=None, device="meta")
        plain_macs = counting.forward_macs(net, size)
        spec = attach_methods(net, methods).spec
    can_merge = mergeable(net)
    planned = any(method.scored for method in methods)  # attached from no artefact: every candidate, not what it will be
    result = {
        "method": settings.method["name"], "also": settings.also["name"], "extra": settings.extra["name"],
        "regularizer": settings.regularizer["name"],
        "backbone": settings.backbone["name"], "timm_name": settings.backbone["timm_name"],
        **counting.counts(net, methods), **counting.training_counts(net, size),
        **({"trainable_params": sum(method.expected_params(spec) for method in methods)} if planned else {}),
        "mergeable": can_merge,
        "forward_macs": plain_macs if can_merge else counting.forward_macs(net, size), "backbone_macs": plain_macs,
        "artefact": None,
    }  # fmt: skip
    rows = counting.site_rows(net)
    if rows:
        print(tabulate(rows, headers="keys", intfmt=","))
    _say_counts(result)
    print(json.dumps(result))
    return result


def _say_counts(result: dict[str, Any]) -> None:
    extra = result["forward_macs"] / result["backbone_macs"] - 1
    cost = (
        "merges into the frozen weights, no inference cost"
        if result["mergeable"]
        else f"stays beside them, {extra:+.2%} multiply-adds"
    )
    print(f"\n{result['method']} on {result['backbone']}: {result['trainable_params']:,} trained parameters "
          f"and a head of {result['head_params']:,}; {cost}; training keeps "
          f"{result['saved_bytes_per_image'] / 2**20:.1f} MiB an image for backward, {result['blocks_without_graph']} blocks "
          "without a graph")  # fmt: skip


def evaluate(settings: Settings) -> dict[str, object]:
    """Top-1 of a saved adapter on the split that the protocol reports; the last line of stdout is one JSON object."""
    adapter = required(settings, "adapter", "a file that save_adapter=true wrote")
    use_threads(settings.threads)
    prepared = prepare(settings)
    model = adapted(prepared.settings, prepared.weights, adapter).to(prepared.device)
    split = prepared.plan.final
    score = top1(model, prepared.batches(split), precision=settings.precision, device=prepared.device)
    loss = score.loss if math.isfinite(score.loss) else None  # NaN is no JSON
    result = {"dataset": settings.dataset["name"], "split": split, "top1_pct": score.top1_pct, "n": score.n, "loss": loss}
    print(f"{result['dataset']} {result['split']}: top-1 {score.top1_pct:.2f} % of {score.n} images, loss {score.loss:.4f}")
    print(json.dumps(result, allow_nan=False))
    return result


def diagnose(settings: Settings) -> dict[str, object]:
    """What lies behind the accuracy of a saved adapter: calibration, classes, features before and after, ranks of its weight
    changes, as numbers and pictures in the folder `out`; the last line of stdout is one JSON object."""
    adapter = required(settings, "adapter", "a file that save_adapter=true wrote")
    out = Path(required(settings, "out", "the folder for numbers and pictures"))
    use_threads(settings.threads)
    prepared = prepare(settings)
    model = adapted(prepared.settings, prepared.weights, adapter).to(prepared.device)
    batches = prepared.batches(prepared.plan.final)
    with merged(model):
        score = top1(model, batches, precision=settings.precision, device=prepared.device, keep=True)
    found = diagnostics_of(prepared, model, score)
    said = write_diagnostics(found, out, title=prepared.title, class_names=known_class_names(settings.dataset))
    print("\n".join([f"{prepared.title}: top-1 {score.top1_pct:.2f} % of {score.n} images", *diagnostic_lines(found)]))
    print(json.dumps({key: said.get(key) for key in ("nll", "ece_pct", "mean_per_class_pct")}, allow_nan=False))
    return said


def predict(settings: Settings) -> list[dict[str, Any]]:
    """The topk classes of each image of a file or folder, by name where they have names, to stdout or to `out`.

    Raises: UserError after the others were handed out, where images could not be read.
    """
    adapter = required(settings, "adapter", "a file that save_adapter=true wrote")
    source = required(settings, "images", "an image or a folder of images")
    if settings.format not in ("text", "json", "csv"):
        raise UserError(f"action=predict has no format={settings.format}; use text, json or csv")
    settings = with_own_values(settings)
    device = pick_device(settings.device)
    use_threads(settings.threads)
    weights = find_weights(settings.backbone, settings.paths.weights)
    about = read_adapter_header(adapter).about
    model = adapted(settings, weights, adapter).to(device)
    said, here = about.dataset, settings.dataset
    transform = (said.transform if said else None) or here.get("transform") or "vtab"
    white = (said.white if said else None) or here.get("white")
    names = (said.class_names if said else ()) or known_class_names(here)
    rows = predictions_of(model, settings, source, transform=transform, white=white, names=names, device=device)
    hand_out(rows, settings.format, settings.out)
    return rows


def merge_adapter(settings: Settings) -> Path:
    """Folds a saved adapter into the backbone and writes a folder that plain timm loads: timm.create_model('local-dir:OUT')."""
    adapter = required(settings, "adapter", "a file that save_adapter=true wrote")
    out = Path(required(settings, "out", "the folder to write"))
    settings = with_own_values(settings)
    weights = find_weights(settings.backbone, settings.paths.weights)
    model = merge(adapted(settings, weights, adapter))
    detach_methods(model)
    save_timm_folder(model, settings.backbone, settings.dataset["classes"], out)
    print(f"merged model in {out}; load it with timm.create_model('local-dir:{out}', pretrained=True)")
    return out


def export_adapter(settings: Settings) -> Path:
    """What of a saved adapter runs elsewhere, by `format`: onnx or torch, one program of backbone and method, merged where it
    merges; folder, the adapter with a card; peft, the folder of huggingface/peft (lora, dora, vera, one-kernel karst)."""
    adapter = required(settings, "adapter", "a file that save_adapter=true wrote")
    out = Path(required(settings, "out", "the file or folder to write"))
    if settings.format not in EXPORTS:
        raise UserError(f"action=export needs format=, one of {', '.join(EXPORTS)}, not {settings.format}")
    settings = with_own_values(settings)
    model = adapted(settings, find_weights(settings.backbone, settings.paths.weights), adapter)
    about = read_adapter_header(adapter).about
    if settings.format == "folder":
        save_folder(model, out, about)
    elif settings.format == "peft":
        to_peft(model, out, base=str(settings.backbone["timm_name"]))
    else:
        size = (settings.backbone["input_size"],) * 2
        if mergeable(model):
            merge(model)
        apart = export_program(model, out, form=settings.format, size=size, about={"about": about_text(about)})
        print(f"its logits are the model's to {apart:.1e}" if math.isfinite(apart) else "its logits were not compared")
    print(f"{settings.format} in {out}")
    return out


def save_timm_folder(model: nn.Module, backbone: Mapping[str, Any], classes: int, out: Path) -> None:
    """A plain timm model as a folder that timm.create_model('local-dir:OUT') loads. backbone: its group of a configuration."""
    name, arguments = built_with(backbone)
    about = {
        "architecture": name.partition(".")[0], "num_classes": classes,
        "num_features": model.num_features, "model_args": arguments,
        "pretrained_cfg": {"input_size": [3, backbone["input_size"], backbone["input_size"]], "num_classes": classes,
                           "mean": list(backbone["mean"]), "std": list(backbone["std"]), "interpolation": "bicubic",
                           "crop_pct": 1.0, "first_conv": "patch_embed.proj",
                           "classifier": "head.fc" if hasattr(model.head, "fc") else "head"},
    }  # fmt: skip
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    files.write(out / "model.safetensors", to_safetensors(state, {"format": "pt"}), once=False)
    files.write(out / "config.json", (json.dumps(about, indent=2) + "\n").encode(), once=False)


def adapted(settings: Settings, weights: Path | None, adapter: str) -> nn.Module:
    """The backbone of the settings with the adapter on it, in evaluation. Raises: UserError also where its record, if it lies in
    a results folder, has another SHA-256."""
    check_adapter(Path(adapter))
    net = build_backbone(settings.backbone, classes=settings.dataset["classes"], weights=weights)
    return load_adapter(net, adapter, allow_other_backbone=settings.allow_other_backbone).eval()


def required(settings: Settings, key: str, what: str) -> str:
    """The value of a key that this action needs. Raises: UserError without one."""
    value = getattr(settings, key)
    if not value:
        raise UserError(f"action={settings.action} needs {key}=: {what}")
    return str(value)
