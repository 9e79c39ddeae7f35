"""action=diagnose, and diagnostics=true in a run: what lies behind an accuracy, as numbers and as pictures."""

import json
import logging
import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
from torch import Tensor, nn

from karst_bench import files
from karst_bench.adapt.attach import adapted_model
from karst_bench.adapt.diagnostics import block_statistics, update_spectra
from karst_bench.adapt.speed.cls_token_block import all_tokens
from karst_bench.engine.evaluate import Score
from karst_bench.records.diagnostics import Diagnostics, FeatureFacts, UpdateFacts
from karst_bench.report.answers import answers_facts
from karst_bench.run.prepare import PreparedRun

log = logging.getLogger(__name__)
LOOKED_AT = 2  # batches whose features are looked at: 512 images


def diagnosed(prepared: PreparedRun, model: nn.Module, score: Score) -> tuple[Diagnostics | None, tuple[str, ...]]:
    """(diagnostics_of, no notes), or (None, a note of what failed): a finished training is not lost to it."""
    try:
        return diagnostics_of(prepared, model, score), ()
    except Exception as error:
        log.warning("%s: no diagnostics: %s: %s", prepared.title, type(error).__name__, error)
        return None, (f"no diagnostics: {type(error).__name__}",)


def diagnostics_of(prepared: PreparedRun, model: nn.Module, score: Score) -> Diagnostics:
    """Of an attached model and its score, whose answers were kept. The backbone before adaptation is built again."""
    answers = score.answers
    assert answers is not None
    updates = [UpdateFacts(path=s.path, effective_rank=s.effective_rank, largest_rank=s.largest_rank, relative_norm=s.relative_norm)
               for s in update_spectra(model)]  # fmt: skip
    return Diagnostics(
        nll=score.loss if math.isfinite(score.loss) else None, updates=tuple(updates), features=tuple(_features(prepared, model)),
        **answers_facts(
            answers.top1.numpy(), answers.probability.numpy(), answers.label.numpy(), classes=prepared.task.classes
        ),
    )  # fmt: skip


def _features(prepared: PreparedRun, model: nn.Module) -> Iterator[FeatureFacts]:
    spec = adapted_model(model).spec
    all_tokens(model)
    before = {found.path: found for found in block_statistics(prepared.backbone(), spec, _images(prepared))}
    for after in block_statistics(model, spec, _images(prepared)):
        plain = before[after.path]
        yield FeatureFacts(
            path=after.path, mean_before=plain.mean, std_before=plain.std, mean_after=after.mean, std_after=after.std
        )


def _images(prepared: PreparedRun) -> Iterator[Tensor]:
    for x, _ in islice(prepared.batches(prepared.plan.final).epoch(None), LOOKED_AT):
        yield x


def write_diagnostics(found: Diagnostics, folder: Path, *, title: str, class_names: tuple[str, ...]) -> dict[str, Any]:
    """diagnostics.json and a picture of each part; returns what the JSON holds."""
    from karst_bench.report.diagnostic_figures import write_diagnostic_figures

    said: dict[str, Any] = msgspec.to_builtins(found)
    text = json.dumps(said, indent=1, sort_keys=True, allow_nan=False) + "\n"
    files.write(folder / "diagnostics.json", text.encode(), setting="out")
    write_diagnostic_figures(found, folder, title=title, class_names=class_names)
    return said


def diagnostic_lines(found: Diagnostics) -> list[str]:
    """What a person reads of it, a line each."""
    lines = []
    if found.nll is not None:
        lines.append(f"negative log-likelihood {found.nll:.4f} nats")
    if found.ece_pct is not None and found.mean_per_class_pct is not None:
        lines.append(f"expected calibration error {found.ece_pct:.2f} %, mean per-class accuracy {found.mean_per_class_pct:.2f} %")
    if found.updates:
        ranks = [update.effective_rank for update in found.updates]
        shares = [update.effective_rank / update.largest_rank for update in found.updates]
        lines.append(
            f"effective rank of {len(ranks)} weight changes: {min(ranks):.1f} to {max(ranks):.1f}, on average "
            f"{100 * sum(shares) / len(shares):.0f} % of what their shapes allow"
        )
    if ratios := [feature.std_after / feature.std_before for feature in found.features if feature.std_before]:
        lines.append(f"standard deviation of a block's output, after over before: {min(ratios):.2f} to {max(ratios):.2f}")
    return lines
