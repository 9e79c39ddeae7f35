"""action=predict: the classes of loose images, by name, as text, JSON or CSV; an image that cannot be read is a line of its own."""

import csv
import io
import json
import logging
import sys
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from torch import nn

from karst_bench import files
from karst_bench.config.settings import Settings
from karst_bench.data.loader import SplitBatches
from karst_bench.data.resize import normalisation
from karst_bench.data.sources.loose_images import find_images_below, read_loose
from karst_bench.engine.evaluate import predict_logits
from karst_bench.errors import UserError

log = logging.getLogger(__name__)
AT_ONCE = 256  # images


def predictions_of(
    model: nn.Module, settings: Settings, source: str, *, transform: str, white: float | None, names: tuple[str, ...],
    device: torch.device,
) -> list[dict[str, object]]:  # fmt: skip
    """A row for each image of a file or folder: {image, classes, probabilities} of the topk, or {image, error}. transform, white:
    as for `read_loose`."""
    backbone = settings.backbone
    mean, std = normalisation(settings.normalization, backbone["mean"], backbone["std"])
    rows: list[dict[str, object]] = []
    found = find_images_below(source)
    for start in range(0, len(found), AT_ONCE):
        part = read_loose(found[start : start + AT_ONCE], resize=transform, size=backbone["input_size"], white=white)
        rows += [{"image": name, "error": reason} for name, reason in part.bad.items()]
        if part.names:
            batches = SplitBatches(part.split, batch=AT_ONCE, mean=mean, std=std, device=device)
            logits = predict_logits(model, batches, precision=settings.precision, device=device)
            rows += [_row(name, line, settings.topk, names) for name, line in zip(part.names, logits.softmax(1), strict=True)]
    return sorted(rows, key=lambda row: str(row["image"]))


def hand_out(rows: list[dict[str, object]], form: str, out: str | None) -> None:
    """Writes the rows as text, json or csv to stdout or a file. Raises: UserError, afterwards, where images were left out."""
    text = {"json": _as_json, "csv": _as_csv, "text": _as_text}[form](rows)
    if out:
        files.write(Path(out), text.encode(), setting="out")
    else:
        sys.stdout.write(text)
    bad = [row for row in rows if "error" in row]
    for row in bad:
        log.warning("%s: %s", row["image"], row["error"])
    if bad:
        raise UserError(f"{len(bad)} of {len(rows)} images could not be read; what the others are is in {out or 'the output'}")


def _row(name: str, probabilities: torch.Tensor, topk: int, names: tuple[str, ...]) -> dict[str, object]:
    top = probabilities.topk(min(topk, len(probabilities)))
    classes = [names[c] if names else c for c in top.indices.tolist()]
    return {"image": name, "classes": classes, "probabilities": [round(p, 6) for p in top.values.tolist()]}


def _as_json(rows: list[dict[str, Any]]) -> str:
    return json.dumps(rows, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _as_csv(rows: list[dict[str, Any]]) -> str:
    k = max((len(row.get("classes", ())) for row in rows), default=0)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["image", *(f"{what}_{n + 1}" for n in range(k) for what in ("class", "probability")), "error"])
    for row in rows:
        pairs = [value for pair in zip(row.get("classes", ()), row.get("probabilities", ()), strict=True) for value in pair]
        writer.writerow([row["image"], *pairs, *[""] * (2 * k - len(pairs)), row.get("error", "")])
    return buffer.getvalue()


def _as_text(rows: list[dict[str, Any]]) -> str:
    good = [row for row in rows if "classes" in row]
    flat = [[row["image"], *(f"{c} {p:.4f}" for c, p in zip(row["classes"], row["probabilities"], strict=True))] for row in good]
    header = ["image", *(f"top {n + 1}" for n in range(len(flat[0]) - 1 if flat else 0))]
    return tabulate(flat, headers=header, disable_numparse=True) + "\n" if flat else ""
