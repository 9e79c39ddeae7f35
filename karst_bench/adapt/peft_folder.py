"""A method as a folder that huggingface/peft loads onto the same timm model, with equal logits.

lora, dora and vera as peft's own; karst with one kernel, q, k and v as one matrix and without re-scaling as its LoKr. What the
suite attaches to rows of a fused projection (q and v apart) becomes factors of the whole layer with zeros elsewhere.
"""

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from karst_bench import files
from karst_bench.adapt.attach import adapted_model
from karst_bench.adapt.layers import AdaptedLayer
from karst_bench.adapt.model import TimmAdaptedModel
from karst_bench.errors import UserError
from karst_bench.methods.vera import ScaledRandom
from karst_bench.nn.kronecker import KroneckerSum
from karst_bench.nn.lowrank import DroppedLowRank, LowRankProduct
from karst_bench.nn.weight_delta import WeightDelta
from karst_bench.nn.weight_dependent import MagnitudeDirection
from karst_bench.tensors_file import to_safetensors

log = logging.getLogger(__name__)

PREFIX = "base_model.model."
CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
Parts = list[tuple[Any, slice]]  # changes of one layer and the rows they cover
Written = tuple[dict[str, Any], dict[str, Tensor]]  # fields of peft's configuration, tensors by peft's names
FITS = "peft takes lora, dora, vera, and karst with N=1, qkv_mode=fused and extra=none"


@torch.no_grad()
def to_peft(net: nn.Module, folder: Path, *, base: str | None = None) -> Path:
    """Writes adapter_config.json and adapter_model.safetensors. base: what the configuration names as the base model.

    Raises: UserError where a part of the method has no form in peft, or the folder cannot be written.
    """
    model = adapted_model(net)
    layers = _parts(model)
    kind = type(next(iter(layers.values()))[0][0])
    fields, tensors = WRITERS[kind](model, layers)
    head = model.head()
    config = {
        "base_model_name_or_path": base, "task_type": None, "inference_mode": True, "bias": "none", "fan_in_fan_out": False,
        "target_modules": sorted(layers), "modules_to_save": sorted({name.rpartition(".")[0] for name in head}) or None, **fields,
    }  # fmt: skip
    tensors = {PREFIX + name: t.detach().cpu().contiguous().clone() for name, t in {**tensors, **head}.items()}
    if "vera_A" in "".join(tensors):
        tensors = {name.replace(f"{PREFIX}vera_", "base_model.vera_"): t for name, t in tensors.items()}
        log.warning("peft reads VeRA's stored projections from 0.21 on; older ones draw their own and compute something else")
    files.write(folder / TENSORS, to_safetensors(tensors, {"format": "pt"}), setting="out")
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    files.write(folder / CONFIG, text.encode(), setting="out")
    return folder


def _parts(model: TimmAdaptedModel) -> dict[str, Parts]:
    """The changes of each layer, all of one kind, and nothing else. Raises: UserError naming what else there is."""
    if model.merged:
        raise UserError("the model is merged; call karst_bench.unmerge(model) before exporting its adapter")
    found = {path: [(_update(part), _rows(rows, layer)) for part, rows in _declared(layer)] for path, layer in model.layers.items()}
    updates = [update for parts in found.values() for update, _ in parts]
    odd = {type(update).__name__ for update in updates if type(update) not in WRITERS}
    odd |= {type(part).__name__ for layer in model.layers.values() for part in (*layer.before, *layer.after)}
    covered = {id(p) for update in updates for p in update.parameters()}
    others = [name for name, p in model.trained().items() if id(p) not in covered]
    if odd or others or not updates:
        named = sorted(odd) or model.unmergeable or others or ["a model without changes"]
        raise UserError(f"peft has no form for {named[0]}; {FITS}")
    if len({type(update) for update in updates}) > 1:
        raise UserError(f"two kinds of changes on one model have no form in peft; {FITS}")
    return found


def _declared(layer: AdaptedLayer) -> list[tuple[Any, Any]]:
    return [*zip(layer.deltas, layer.delta_rows, strict=True), *zip(layer.branches, layer.branch_rows, strict=True)]


def _update(part: nn.Module) -> nn.Module:
    """The change itself, where dropout stands before it."""
    return part.update if isinstance(part, DroppedLowRank) and isinstance(part.update, WeightDelta) else part


def _rows(rows: tuple[int, int] | None, layer: AdaptedLayer) -> slice:
    return slice(0, layer.base.weight.shape[0]) if rows is None else slice(*rows)


def _stacked(parts: Parts, d_out: int) -> tuple[Tensor, Tensor]:
    """A (sum r, d_in) and B (d_out, sum r) of low-rank changes of ranges of rows."""
    A = torch.cat([update.A for update, _ in parts])
    B, at = A.new_zeros(d_out, len(A)), 0
    for update, rows in parts:
        B[rows, at : at + len(update.A)] = update.B
        at += len(update.A)
    return A, B


def _low_rank(model: TimmAdaptedModel, layers: Mapping[str, Parts]) -> Written:
    """scaling = lora_alpha / r, which is s."""
    tensors: dict[str, Tensor] = {}
    ranks = set()
    scales = {update.s for parts in layers.values() for update, _ in parts}
    if len(scales) > 1:
        raise UserError("changes of different s have no form in peft; " + FITS)
    (s,) = scales
    for path, parts in layers.items():
        weight = model.layers[path].base.weight
        A, B = _stacked(parts, len(weight))
        ranks.add(len(A))
        tensors |= {f"{path}.lora_A.weight": A, f"{path}.lora_B.weight": B}
        if isinstance(parts[0][0], MagnitudeDirection):
            length = weight.norm(dim=1)
            for update, rows in parts:
                length[rows] += update.mu
            tensors[f"{path}.lora_magnitude_vector"] = length
    if len(ranks) > 1:
        raise UserError("layers of different rank have no form here; " + FITS)
    r, dora = ranks.pop(), any(name.endswith("vector") for name in tensors)
    return {"peft_type": "LORA", "r": r, "lora_alpha": s * r, "lora_dropout": 0.0, "use_dora": dora, "use_rslora": False}, tensors


def _vera(model: TimmAdaptedModel, layers: Mapping[str, Parts]) -> Written:
    """One pair A, B for all layers, of which peft cuts what a layer needs: every pair and range of rows has ranks of its own."""
    slots: dict[tuple[Any, ...], int] = {}
    used = [(path, update, rows, slots.setdefault((update.B.shape, update.A.shape, rows.start), len(slots)))
            for path, parts in layers.items() for update, rows in parts]  # fmt: skip
    r = used[0][1].A.shape[0]
    shapes = {path: model.layers[path].base.weight.shape for path in layers}
    A = torch.zeros(r * len(slots), max(shape[1] for shape in shapes.values()))
    B = torch.zeros(max(shape[0] for shape in shapes.values()), len(A))
    tensors = {f"{path}.vera_lambda_{key}": torch.zeros(size) for path, shape in shapes.items()
               for key, size in (("b", shape[0]), ("d", len(A)))}  # fmt: skip
    for path, update, rows, slot in used:
        columns = slice(slot * r, (slot + 1) * r)
        A[columns, : update.A.shape[1]] = update.A
        B[rows, columns] = update.B
        tensors[f"{path}.vera_lambda_b"][rows] = update.b
        tensors[f"{path}.vera_lambda_d"][columns] = update.d
    fields = {"peft_type": "VERA", "r": len(A), "projection_prng_key": 0, "save_projection": True, "vera_dropout": 0.0}
    return fields, tensors | {"vera_A": A, "vera_B": B}


def _lokr(model: TimmAdaptedModel, layers: Mapping[str, Parts]) -> Written:
    """dW = sigma C (x) (A B): peft's w1 = C and w2 = A B, low-rank where peft makes it so, scale alpha / r."""
    tensors: dict[str, Tensor] = {}
    sizes = set()
    for path, ((update, rows), *_) in layers.items():
        m, (N, chunks, height, r), width = update.C.shape[-1], update.A.shape, update.B.shape[-1]
        if N > 1 or chunks > 1 or rows != slice(0, len(model.layers[path].base.weight)) or m > min(height, width):
            raise UserError(f"{path}: {N} kernels of m={m} over {chunks} chunks have no form in peft's LoKr; {FITS}, m <= d / m")
        sizes.add((m, r, update.sigma))
        tensors[f"{path}.lokr_w1"] = update.C[0]
        low = r < max(height, width) / 2
        factors = {"w2_a": update.A[0, 0], "w2_b": update.B[0]} if low else {"w2": update.A[0, 0] @ update.B[0]}
        tensors |= {f"{path}.lokr_{name}": tensor for name, tensor in factors.items()}
    if len(sizes) > 1:
        raise UserError("kernels of different m, r or sigma have no form here; " + FITS)
    ((m, r, sigma),) = sizes
    fields: dict[str, Any] = {"peft_type": "LOKR", "r": r, "alpha": sigma * r, "decompose_both": False, "decompose_factor": m,
              "rank_dropout": 0.0, "module_dropout": 0.0}  # fmt: skip
    return fields, tensors


WRITERS: dict[type[nn.Module], Callable[[TimmAdaptedModel, Mapping[str, Parts]], Written]] = {
    LowRankProduct: _low_rank, MagnitudeDirection: _low_rank, ScaledRandom: _vera, KroneckerSum: _lokr,
}  # fmt: skip
