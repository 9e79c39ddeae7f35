"""One run, from configuration to record: the whole story on one screen."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from msgspec import convert, to_builtins
from msgspec.structs import replace
from omegaconf import DictConfig
from torch import nn

from karst_bench import engine
from karst_bench.adapt import counts as account
from karst_bench.adapt.adapter_file import adapter_metadata, adapter_tensors
from karst_bench.adapt.merge import merged
from karst_bench.adapt.speed.cached_activations import split_cached_activations
from karst_bench.adapt.speed.cls_token_block import all_tokens
from karst_bench.adapt.speed.frozen_features import FeatureBatches, split_head
from karst_bench.config.compose import plain
from karst_bench.engine import DivergedError, Interrupted, Meter, Streams
from karst_bench.engine.evaluate import autocast
from karst_bench.errors import UserError
from karst_bench.records import provenance
from karst_bench.records.facts import Counts, Curves, DataFacts, Metrics, RunFailure, Seconds, Speed, WeightsFacts
from karst_bench.records.identity import cell_key
from karst_bench.records.lease import Leases
from karst_bench.records.record import FailedRun, RunRecord
from karst_bench.records.store import Store
from karst_bench.run.prepare import TEST_BATCH, PreparedRun
from karst_bench.trackers import client

CHECKPOINT_S = 60.0
ATTEMPTS = 2  # a failed cell is tried once more, then left to a person
Say = Callable[[str], None]
OnCheck = Callable[[int, str, float], None]


class BusyError(UserError):
    """Another process is running this cell; a sweep passes it over."""


def run(cfg: DictConfig, *, say: Say = print, on_check: OnCheck | None = None) -> RunRecord:
    """Trains and evaluates what the configuration says and returns its record; a finished run is read, not repeated.

    on_check(epoch, split, top1_pct) is told every look at a split and may raise to prune the run.
    Raises: UserError for bad input, before anything is computed; Interrupted on SIGTERM or Ctrl-C, state on disk.
    """
    settings = plain(cfg)
    inputs = PreparedRun(settings)
    store = Store(settings["paths"]["results"], settings["suite"])
    if not settings["force"] and (record := _standing(inputs, store, say)) is not None:
        return record
    store.check_writable()
    lease = Leases(store.root).acquire(inputs.id, note=cell_key(settings))
    if lease is None:
        raise BusyError(f"{inputs.title}: another process is running this cell ({inputs.id})")
    with lease:
        if settings["force"]:
            store.supersede(inputs.id)
        elif (record := _standing(inputs, store, say)) is not None:  # its last holder may have finished a moment ago
            return record
        store.clear_temporaries(inputs.id)
        record = _tracked(inputs, store, say, on_check)
    say(
        f"{inputs.title}: {_accuracy(record)}; {record.counts.trainable_params:,} trained parameters, "
        f"{record.seconds.total_s:.1f} s; record {store.path(inputs.id)}"
    )
    return record


def _standing(inputs: PreparedRun, store: Store, say: Say) -> RunRecord | None:
    """The record of a finished cell. Raises: UserError where the cell has failed too often to be tried again unasked."""
    if store.done(inputs.id):
        record = store.read(inputs.id)
        say(f"{inputs.title}: done already, {_accuracy(record)}; record {store.path(inputs.id)} (force=true runs it again)")
        return record
    if store.failures(inputs.id) >= ATTEMPTS:
        raise UserError(
            f"{inputs.title}: failed {ATTEMPTS} times, see {store.path(inputs.id, 'failed')}; force=true tries it again"
        )
    return None


def _tracked(inputs: PreparedRun, store: Store, say: Say, on_check: OnCheck | None) -> RunRecord:
    """Trains under the trackers; whatever happens to them, the record is written."""
    tracker = client.build_trackers(inputs.settings["tracker"])
    found = store.load_checkpoint(inputs.id)
    state = engine.State(tensors=found[0], meta=found[1]) if found else None
    tracker.start(inputs.settings, inputs.id, resumed=state is not None)
    record: RunRecord | None = None
    failed: FailedRun | None = None
    try:
        record = _trained(inputs, store, on_check, tracker, state)
        store.write(record)
    except (Interrupted, UserError, KeyboardInterrupt):
        raise
    except Exception as error:
        failed = FailedRun(**_header(inputs), error=RunFailure.of(error))
        path = store.fail(failed)
        if isinstance(error, DivergedError):
            raise UserError(f"{inputs.title}: {error}. Failed record: {path}") from error
        raise
    finally:
        ended = failed or record
        adapter = store.adapter_path(inputs.id) if isinstance(ended, RunRecord) and ended.adapter else None
        tracker.finish(to_builtins(ended) if ended else None, adapter)
    return record


def _trained(
    inputs: PreparedRun, store: Store, on_check: OnCheck | None, tracker: client.Trackers, state: engine.State | None
) -> RunRecord:
    settings, plan, meter = inputs.settings, inputs.plan, Meter(inputs.device)
    with meter.phase("setup"):
        streams = Streams(settings["seed"])
        model = inputs.model(streams)
        trainee, train, look = _trainee(model, inputs)
        checks = [engine.Check(plan.check, look(plan.check), plan.check_epochs, plan.choose)] if plan.check else []
    with meter.phase("train"), _stop_signals() as stop:
        try:
            fit = engine.fit(
                trainee,
                inputs.methods,
                train,
                recipe=inputs.recipe,
                precision=settings["precision"],
                device=inputs.device,
                streams=streams,
                checks=checks,
                progress=engine.display(inputs.title),
                state=state,
                on_check=on_check,
                on_epoch=tracker.log,
                on_checkpoint=_every(CHECKPOINT_S, store, inputs.id),
                stop=stop,
            )
        except Interrupted as interrupted:
            store.save_checkpoint(inputs.id, **interrupted.state)
            raise
    tensors = adapter_tensors(model) if settings["save_adapter"] else None
    counts = account.counts(model, inputs.methods)
    with meter.phase("evaluate"), merged(model), engine.uncompiled(settings["compile"]):
        score = _final_score(model, inputs, fit)
        counts["forward_macs"] = _forward_macs(model, inputs)
    record = RunRecord(**_header(inputs), **_results(inputs, fit, score, counts, meter))
    if tensors is None:
        return record
    adapter, sha256 = store.save_adapter(inputs.id, tensors, adapter_metadata(model))
    return replace(record, adapter=adapter, adapter_sha256=sha256)


def _trainee(model: nn.Module, inputs: PreparedRun) -> tuple[nn.Module, engine.Batches, Callable[[str], engine.Batches]]:
    """(what is trained, its batches, the batches of another split): the model on images, or, where the pictures stay as
    they are and all that trains stands behind or beside a frozen backbone, that part on what one pass over them gave."""
    images = inputs.batches(inputs.plan.train, train=True)
    mode = "eval" if any(method.backbone_mode == "eval" for method in inputs.methods) else "train"
    split = None
    if not images.augment:
        split = split_head(model, backbone_mode=mode) or split_cached_activations(model, backbone_mode=mode)
    if split is None:
        return model, images, inputs.batches
    trunk, trained = split

    def features(batches: engine.Batches, batch: int) -> engine.Batches:
        return FeatureBatches(trunk, batches, batch=batch, autocast=autocast(inputs.settings["precision"], inputs.device))

    return trained, features(images, inputs.recipe.batch), lambda split: features(inputs.batches(split), TEST_BATCH)


def _every(seconds: float, store: Store, run_id: str) -> Callable[[Callable[[], engine.State]], None]:
    """Writes a checkpoint after an epoch if the last one is older than this: a killed run loses no more than that."""
    last = time.monotonic()

    def keep(make: Callable[[], engine.State]) -> None:
        nonlocal last
        if time.monotonic() - last > seconds:
            store.save_checkpoint(run_id, **make())
            last = time.monotonic()

    return keep


def _final_score(model: nn.Module, inputs: PreparedRun, fit: engine.Fit) -> engine.Score:
    """One pass over the reported split.

    A protocol whose last look was at that split after the last epoch has its score already.
    """
    plan = inputs.plan
    seen = fit.check(plan.final, inputs.recipe.epochs) if plan.check == plan.final else None
    if seen is not None:
        return engine.Score(top1_pct=seen, n=len(inputs.task.splits[plan.final]), loss=float("nan"))
    return engine.top1(model, inputs.batches(plan.final), precision=inputs.settings["precision"], device=inputs.device)


def _forward_macs(model: nn.Module, inputs: PreparedRun) -> int:
    """Multiply-adds of the whole network, every token in every block, as others count them."""
    all_tokens(model)
    return account.forward_macs(model, (inputs.settings["backbone"]["input_size"],) * 2)


def _header(inputs: PreparedRun) -> dict[str, Any]:
    """What a record says before any result: who ran what on which data, weights and machine."""
    settings, task = inputs.settings, inputs.task
    device = torch.cuda.get_device_name(inputs.device) if inputs.device.type == "cuda" else "cpu"
    paths: dict[str, Any] = {
        "paths": {},
        "adapter": None,
        "images": None,
        "out": None,
    }  # where things lay on one machine is no result
    notes = list(task.notes) + (["own split: not the published lists"] if task.own_split else [])
    if settings["tuned"]["name"] != "none" and not settings["tuned"].get("listed"):
        notes.append(
            f"tuned={settings['tuned']['name']} lists no values for {settings['dataset']['name']}: the method's defaults ran"
        )
    return {
        "id": inputs.id,
        "config": settings | paths,
        "data": DataFacts(list_sha256=task.list_sha256, encoding=task.encoding, source=task.source,
                          own_split=task.own_split, mean=tuple(inputs.mean), std=tuple(inputs.std)),
        "weights": WeightsFacts(name=settings["backbone"]["name"], timm_name=settings["backbone"]["timm_name"],
                                kind=_weights_kind(settings), sha256=inputs.weights_sha256),
        "provenance": provenance.collect(device=device, threads=inputs.threads),
        "notes": tuple(notes),
    }  # fmt: skip


def _results(
    inputs: PreparedRun, fit: engine.Fit, score: engine.Score, counts: dict[str, int], meter: Meter
) -> dict[str, Any]:
    plan, task = inputs.plan, inputs.task
    final = {"test": "test", "val200": "val", "val": "val"}[plan.final]
    metrics = Metrics(
        test_top1_last_pct=score.top1_pct if final == "test" else None,
        test_top1_peak_pct=_peak(fit, score) if plan.check == "test" else None,
        val_top1_last_pct=score.top1_pct if final == "val" else None,
        val_top1_best_pct=fit.best_top1_pct if plan.choose else fit.peak(plan.check) if plan.check and final == "val" else None,
        best_epoch=fit.best_epoch, train_n=len(task.splits[plan.train]),
        test_n=score.n if final == "test" else None, val_n=score.n if final == "val" else None,
    )  # fmt: skip
    return {
        "metrics": metrics,
        "curves": convert(fit.curves, Curves),
        "counts": Counts(**{key: counts[key] for key in ("trainable_params", "head_params", "forward_macs")}),
        "seconds": Seconds(**meter.seconds("setup", "train", "evaluate")),
        "speed": Speed(train_images_per_s=fit.train_images_per_s, step_ms_median=fit.step_ms_median),
        "peak_bytes": meter.peak_bytes(),
    }


def _peak(fit: engine.Fit, score: engine.Score) -> float:
    return max(score.top1_pct, fit.peak("test") or 0.0)


def _weights_kind(settings: dict[str, Any]) -> str:
    wanted = str(settings["backbone"]["weights"])
    return wanted if wanted in ("pretrained", "none") else "file"


def _accuracy(record: RunRecord) -> str:
    split, top1_pct = record.metrics.accuracy()
    return f"{split} top-1 {top1_pct:.1f} %"


@contextmanager
def _stop_signals() -> Iterator[Callable[[], bool]]:
    """Turns SIGTERM and the first Ctrl-C into a request that training answers after its step, with a checkpoint."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def ask(number: int, _frame: Any) -> None:
        if asked.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.set()
        os.write(sys.stderr.fileno(), b"\nstopping after this step; the run can be continued\n")

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
