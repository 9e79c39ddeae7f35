"""What `action=` can ask for besides training: describe, evaluate, predict, merge."""

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from torch import nn

from karst_bench import files, load_adapter
from karst_bench.adapt import counts as counting
from karst_bench.adapt.attach import attach_methods
from karst_bench.adapt.backbone import build_backbone
from karst_bench.adapt.merge import merge, mergeable
from karst_bench.adapt.weights_file import find_weights
from karst_bench.config.settings import Settings
from karst_bench.data.loader import SplitBatches
from karst_bench.data.resize import normalisation
from karst_bench.data.sources.loose_images import read_images
from karst_bench.engine.evaluate import predict_logits, top1
from karst_bench.errors import UserError
from karst_bench.methods.build import build_methods
from karst_bench.run.pipeline import run
from karst_bench.run.prepare import TEST_BATCH, method_settings, pick_device, prepare, use_threads, with_own_values
from karst_bench.tensors_file import to_safetensors


def act(settings: Settings) -> Any:
    """Does what `action=` says. Raises: UserError for bad input."""
    actions: dict[str, Callable[[Settings], Any]] = {
        "train": run, "describe": describe, "evaluate": evaluate, "predict": predict, "merge": merge_adapter,
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


def evaluate(settings: Settings) -> dict[str, Any]:
    """Top-1 of a saved adapter on the reported split of a dataset."""
    adapter = _required(settings, "adapter", "a file that save_adapter=true wrote")
    use_threads(settings.threads)
    prepared = prepare(settings)
    model = _adapted(prepared.settings, prepared.weights, adapter).to(prepared.device)
    split = prepared.plan.final
    score = top1(model, prepared.batches(split), precision=settings.precision, device=prepared.device)
    result = {"dataset": settings.dataset["name"], "split": split, "top1_pct": score.top1_pct, "n": score.n,
            "loss": score.loss}  # fmt: skip
    print(f"{result['dataset']} {result['split']}: top-1 {score.top1_pct:.2f} % of {score.n} images, loss {score.loss:.4f}")
    print(json.dumps(result))
    return result


def predict(settings: Settings) -> list[dict[str, Any]]:
    """The topk classes of each image of a file or folder, as text, JSON or CSV, to stdout or to `out`."""
    adapter = _required(settings, "adapter", "a file that save_adapter=true wrote")
    source = _required(settings, "images", "an image or a folder of images")
    settings = with_own_values(settings)
    device = pick_device(settings.device)
    use_threads(settings.threads)
    weights = find_weights(settings.backbone, settings.paths.weights)
    model = _adapted(settings, weights, adapter).to(device)
    resize = settings.dataset.get("transform") or "vtab"
    names, images = read_images(source, resize=resize, size=settings.backbone["input_size"])
    mean, std = normalisation(settings.normalization, settings.backbone["mean"], settings.backbone["std"])
    batches = SplitBatches(images, batch=TEST_BATCH, mean=mean, std=std, device=device)
    logits = predict_logits(model, batches, precision=settings.precision, device=device)
    labels = settings.dataset.get("label_names")
    rows = []
    for name, row in zip(names, logits.softmax(1), strict=True):
        top = row.topk(min(settings.topk, len(row)))
        rows.append({"image": name, "classes": [labels[c] if labels else c for c in top.indices.tolist()],
                     "probabilities": [round(p, 6) for p in top.values.tolist()]})  # fmt: skip
    _hand_out(rows, settings.format, settings.out)
    return rows


def merge_adapter(settings: Settings) -> Path:
    """Folds a saved adapter into the backbone and writes a folder that plain timm loads: timm.create_model('local-dir:OUT')."""
    adapter = _required(settings, "adapter", "a file that save_adapter=true wrote")
    out = Path(_required(settings, "out", "the folder to write"))
    settings = with_own_values(settings)
    weights = find_weights(settings.backbone, settings.paths.weights)
    model = merge(_adapted(settings, weights, adapter))
    del model._adapted_model
    _save_timm_folder(model, settings, out)
    print(f"merged model in {out}; load it with timm.create_model('local-dir:{out}', pretrained=True)")
    return out


def _save_timm_folder(model: nn.Module, settings: Settings, out: Path) -> None:
    backbone, classes = settings.backbone, settings.dataset["classes"]
    about = {
        "architecture": str(backbone["timm_name"]).partition(".")[0], "num_classes": classes,
        "num_features": model.num_features, "model_args": dict(backbone["model_args"] or {}),
        "pretrained_cfg": {"input_size": [3, backbone["input_size"], backbone["input_size"]], "num_classes": classes,
                           "mean": list(backbone["mean"]), "std": list(backbone["std"]), "interpolation": "bicubic",
                           "crop_pct": 1.0, "first_conv": "patch_embed.proj",
                           "classifier": "head.fc" if hasattr(model.head, "fc") else "head"},
    }  # fmt: skip
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    files.write(out / "model.safetensors", to_safetensors(state, {"format": "pt"}), once=False)
    files.write(out / "config.json", (json.dumps(about, indent=2) + "\n").encode(), once=False)


def _adapted(settings: Settings, weights: Path | None, adapter: str) -> nn.Module:
    net = build_backbone(settings.backbone, classes=settings.dataset["classes"], weights=weights)
    return load_adapter(net, adapter).eval()


def _required(settings: Settings, key: str, what: str) -> str:
    value = getattr(settings, key)
    if not value:
        raise UserError(f"action={settings.action} needs {key}=: {what}")
    return str(value)


def _hand_out(rows: list[dict[str, Any]], form: str, out: str | None) -> None:
    if form == "json":
        text = json.dumps(rows, indent=1) + "\n"
    else:
        flat = [
            [row["image"], *(f"{c} {p:.4f}" for c, p in zip(row["classes"], row["probabilities"], strict=True))]
            for row in rows
        ]
        header = ["image", *(f"top {k + 1}" for k in range(len(flat[0]) - 1))]
        text = tabulate(flat, headers=header) + "\n" if form == "text" else _as_csv([header, *flat])
    if out:
        files.write(Path(out), text.encode(), once=False)
    else:
        sys.stdout.write(text)


def _as_csv(rows: list[list[str]]) -> str:
    import io

    buffer = io.StringIO()
    csv.writer(buffer).writerows(rows)
    return buffer.getvalue()
