"""From what a run was and gave to its record."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from karst_bench import files
from karst_bench.errors import DiskError, LostLeaseError, briefly
from karst_bench.records import provenance
from karst_bench.records.facts import (
    CheckResult,
    Counts,
    Curves,
    DataFacts,
    Metrics,
    Provenance,
    Seconds,
    Speed,
    WeightsFacts,
)
from karst_bench.records.predictions import REPORTED, Predictions
from karst_bench.records.record import RunRecord
from karst_bench.records.store import Store
from karst_bench.run.aside import Aside
from karst_bench.run.prepare import PreparedRun
from karst_bench.run.training import Result

log = logging.getLogger(__name__)
LOCAL: dict[str, Any] = {"paths": {}, "adapter": None, "images": None, "out": None}  # where things lay is no result


def _where(device: str, threads: int) -> Provenance:
    capability, cuda = torch.backends.cpu.get_cpu_capability(), torch.version.cuda
    return provenance.collect(device=device, threads=threads, cpu_capability=capability, cuda=cuda)


def header_of(prepared: PreparedRun, threads: int) -> dict[str, Any]:
    """What a record says before any result, by the fields of RunHeader: who ran what on which data, weights and machine."""
    settings, task = prepared.settings, prepared.task
    device = torch.cuda.get_device_name(prepared.device) if prepared.device.type == "cuda" else "cpu"
    backbone = settings.backbone
    weights, aside = str(backbone["weights"]), Aside()
    where = aside.of("what code and machine are", lambda: _where(device, threads), Provenance())
    return {
        "id": prepared.id,
        "config": _placeless(settings.as_config() | LOCAL),
        "data": DataFacts(list_sha256=task.list_sha256, encoding=task.encoding, source=task.source, own_split=task.own_split,
                          mean=prepared.mean, std=prepared.std, pixels_sha256=task.pixels_sha256,
                          images_sha256=None if task.images_in_id else task.images_sha256),
        "weights": WeightsFacts(name=backbone["name"], timm_name=backbone["timm_name"], sha256=prepared.weights_sha256,
                                kind=weights if weights in ("pretrained", "none") else "file"),
        "provenance": where,
        "notes": (*_notes(prepared), *aside.notes),
    }  # fmt: skip


def _placeless(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration without the folder that a set of one's own was read from."""
    return config | {"dataset": {key: value for key, value in config["dataset"].items() if key != "root"}}


def write_record(prepared: PreparedRun, threads: int, result: Result, store: Store) -> RunRecord:
    """Writes adapter and predictions, where they were asked for, and then the record; the record also where they have no room.

    Raises: DiskError where not even the record can be written; LostLeaseError.
    """
    saved = _save(prepared, result, store)
    record = record_of(prepared, threads, result, store, saved)
    try:
        store.write(record)
    except DiskError as error:
        if saved.adapter is None and saved.predictions is None:
            raise
        for path, _ in filter(None, (saved.adapter, saved.predictions)):  # their room is enough for the record
            (store.root / path).unlink(missing_ok=True)
        record = record_of(prepared, threads, result, store, Saved(notes=_left_out("adapter and predictions", error)))
        store.write(record)
    return record


@dataclass(frozen=True)
class Saved:
    """What lies beside a record: (path below the results folder, SHA-256) of each; notes: what could not be written."""

    adapter: tuple[str, str] | None = None
    predictions: tuple[str, str] | None = None
    notes: tuple[str, ...] = ()


def _save(prepared: PreparedRun, result: Result, store: Store) -> Saved:
    found: dict[str, tuple[str, str]] = {}
    notes: list[str] = []

    def save(what: str, write: Callable[[], tuple[str, str]]) -> None:
        try:
            found[what] = write()
        except LostLeaseError:
            raise
        except Exception as error:  # the record matters more than what lies beside it
            notes.extend(_left_out(what, error))

    if (tensors := result.tensors) is not None:
        save("adapter", lambda: store.save_adapter(prepared.id, tensors, result.adapter_metadata))
    if prepared.settings.save_predictions:
        save("predictions", lambda: store.save_predictions(prepared.id, _predictions(prepared, result).to_bytes()))
    return Saved(**found, notes=tuple(notes))


def _left_out(what: str, error: Exception) -> tuple[str, ...]:
    log.warning("the %s could not be written, the record is: %s", what, error)
    reason = "" if isinstance(error, DiskError) else f": {briefly(error)}"
    return (f"the {what} could not be written{reason}",)


def record_of(prepared: PreparedRun, threads: int, result: Result, store: Store, saved: Saved) -> RunRecord:
    """The record of a finished run."""
    (adapter, adapter_sha256), (predictions, predictions_sha256) = saved.adapter or (None, None), saved.predictions or (None, None)
    fit, artefact = result.fit, result.found.file
    header, aside = header_of(prepared, threads), Aside()
    peak_bytes = aside.of("peak memory", result.meter.peak_bytes, None)
    phases = [name for name in ("setup", "search", "train", "evaluate") if name != "search" or name in result.meter.phases]
    curves = {key: tuple(fit.curves[key]) for key in ("epoch", "train_loss", "train_top1_pct", "lr")}
    return RunRecord(
        **header | {"notes": (*header["notes"], *result.found.notes, *result.notes, *saved.notes, *aside.notes)},
        metrics=_metrics(prepared, result),
        curves=Curves(**curves, checks=tuple(CheckResult(**check) for check in fit.curves["checks"])),
        counts=Counts(**result.counts),
        seconds=Seconds(**result.meter.seconds(*phases)),
        speed=Speed(train_images_per_s=fit.train_images_per_s, step_ms_median=fit.step_ms_median, mode=fit.mode),
        peak_bytes=peak_bytes,
        adapter=adapter,
        adapter_sha256=adapter_sha256,
        artefact=artefact.relative_to(store.root).as_posix() if artefact else None,
        artefact_sha256=files.sha256(artefact) if artefact else None,
        predictions=predictions,
        predictions_sha256=predictions_sha256,
        diagnostics=result.diagnostics,
    )


def _predictions(prepared: PreparedRun, result: Result) -> Predictions:
    answers = result.score.answers
    assert answers is not None
    arrays = (part.numpy() for part in (answers.top1, answers.probability, answers.label))
    return Predictions(prepared.id, prepared.plan.final, prepared.task.list_sha256, *arrays)


def _metrics(prepared: PreparedRun, result: Result) -> Metrics:
    plan, splits, fit, score = prepared.plan, prepared.task.splits, result.fit, result.score
    final = REPORTED[plan.final]
    best = fit.best_top1_pct if plan.choose else fit.peak(plan.check) if plan.check and final == "val" else None
    return Metrics(
        test_top1_last_pct=score.top1_pct if final == "test" else None,
        test_top1_peak_pct=None if (peak := fit.peak("test")) is None else max(score.top1_pct, peak),
        val_top1_last_pct=score.top1_pct if final == "val" else None,
        val_top1_best_pct=best,
        best_epoch=fit.best_epoch,
        train_n=len(splits[result.found.split or plan.train]),
        test_n=score.n if final == "test" else None,
        val_n=score.n if final == "val" else None,
    )


def _notes(prepared: PreparedRun) -> list[str]:
    task = prepared.task
    return [*task.notes, *(["own split: not the published lists"] if task.own_split else []), *prepared.remarks]
