"""Training and scoring of a prepared run: the model, what trains of it, the fit, and the pass over the reported split."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from karst_bench.adapt import counts as counting
from karst_bench.adapt.adapter_about import ABOUT
from karst_bench.adapt.adapter_file import adapter_parts
from karst_bench.adapt.merge import merged
from karst_bench.adapt.noise import add_noise
from karst_bench.adapt.speed.cached_activations import split_cached_activations
from karst_bench.adapt.speed.cls_token_block import all_tokens
from karst_bench.adapt.speed.compiled_trunk import CompiledTrunk
from karst_bench.adapt.speed.frozen_features import FeatureBatches, split_head
from karst_bench.engine.callbacks import Callbacks, Several
from karst_bench.engine.captured import CudaRecorder, Recorder
from karst_bench.engine.checkpoint import State, copy_in, trained
from karst_bench.engine.evaluate import Score, autocast, top1
from karst_bench.engine.meter import Meter
from karst_bench.engine.objective import Consistency, CrossEntropy
from karst_bench.engine.outcome import Check, Fit, Interrupted
from karst_bench.engine.progress import progress
from karst_bench.engine.streams import Streams, exact_convolutions
from karst_bench.engine.train import fit
from karst_bench.methods.base import Batches
from karst_bench.records.diagnostics import Diagnostics
from karst_bench.records.store import Store
from karst_bench.run.aside import Aside
from karst_bench.run.counted import CountedOnce
from karst_bench.run.described import about_run
from karst_bench.run.diagnosing import diagnosed
from karst_bench.run.disk_room import warn_if_short
from karst_bench.run.prepare import TEST_BATCH, PreparedRun, method_settings
from karst_bench.run.scoring import score_stage
from karst_bench.run.searching import search_stages
from karst_bench.run.stages import Found
from karst_bench.run.watchers import Checkpoints, Shown, StopSignals, Tracked
from karst_bench.stopping import Stopped, safe_point
from karst_bench.trackers.client import Trackers

Looks = Callable[[str], Batches]
COUNTED = CountedOnce()  # of this process


@dataclass(frozen=True)
class Result:
    """What a run gave. found: by the stages before training; counts: by the fields of Counts; tensors: what was trained,
    where it is to be saved."""

    fit: Fit
    found: Found
    score: Score
    counts: dict[str, int]
    meter: Meter
    tensors: dict[str, Tensor] | None
    adapter_metadata: dict[str, str]
    notes: tuple[str, ...] = ()
    diagnostics: Diagnostics | None = None


def train_and_score(
    prepared: PreparedRun, store: Store, state: State | None, trackers: Trackers, watchers: Sequence[Callbacks]
) -> Result:
    """Goes through the stages, trains from `state` or anew, then looks at the reported split once, merged where the method
    merges.

    Raises: Stopped with a checkpoint written, where anything was trained; DivergedError.
    """
    settings, meter, aside = prepared.settings, Meter(prepared.device), Aside()
    tracked = Tracked(trackers)
    found = before_training(prepared, store, meter, tracked)
    with meter.phase("setup"):
        streams = Streams(settings.seed)
        model = prepared.model(streams, found.artefacts)
        recorder = CudaRecorder(prepared.device) if prepared.device.type == "cuda" and prepared.speed != "eager" else None
        objective, notes = _objective(model, prepared)
        warn_if_short(model, prepared)
    fitted, checkpoints = found.fit, None
    if found.kept is not None:
        copy_in(trained(model), found.kept["tensors"])
    if fitted is None:
        checkpoints = Checkpoints(store, prepared.id, settings.checkpoint_s)
        shown = Shown(lambda: progress(prepared.title), aside)
        watching = [shown, checkpoints, tracked, *watchers, StopSignals()]
        with _kept_if_stopped(checkpoints):
            fitted = _fit(prepared, model, streams, state, meter, watching, objective, recorder)
    size = (settings.backbone["input_size"],) * 2
    tensors, about = _adapter(model, aside) if settings.save_adapter else (None, {})
    counts = aside.of("what methods count", lambda: counting.counts(model, prepared.methods), counting.trained_now(model))
    none: dict[str, int] = {}
    kept = "what training keeps"
    counts |= aside.of(kept, lambda: COUNTED.of(prepared, kept, lambda: counting.training_counts(model, size)), none)
    with meter.phase("evaluate"), _kept_if_stopped(checkpoints), merged(model):
        score = _final_score(model, prepared, fitted, recorder)
        all_tokens(model)  # multiply-adds are counted with every token in every block, as others count them
        macs = "multiply-adds"
        counts |= aside.of(macs, lambda: COUNTED.of(prepared, macs, lambda: _macs(model, size)), none)
    diagnostics, more = diagnosed(prepared, model, score) if settings.diagnostics else (None, ())
    if tensors is not None:
        text = aside.of("what an adapter says of its run", lambda: about_run(prepared, score), "")
        about |= {ABOUT: text} if text else {}
    notes = (*notes, *aside.notes, *trackers.notes, *more)
    return Result(fitted, found, score, counts, meter, tensors, about, notes, diagnostics)


def _macs(model: nn.Module, size: tuple[int, int]) -> dict[str, int]:
    return {"forward_macs": counting.forward_macs(model, size)}


def _adapter(model: nn.Module, aside: Aside) -> tuple[dict[str, Tensor] | None, dict[str, str]]:
    nothing: tuple[dict[str, Tensor] | None, dict[str, str]] = (None, {})
    return aside.of("the adapter", lambda: adapter_parts(model), nothing)


def before_training(prepared: PreparedRun, store: Store, meter: Meter, tracked: Callbacks) -> Found:
    """What the stages before training found: of a method that searches, or of scored ones; nothing where there are none."""
    if any(method.search_stages() for method in prepared.methods):
        with meter.phase("search"):
            return search_stages(prepared, store, [tracked])
    if not any(method.scored for method in prepared.methods):
        return Found()
    with meter.phase("setup"):
        return score_stage(prepared, store)


def _fit(
    prepared: PreparedRun, model: nn.Module, streams: Streams, state: State | None, meter: Meter,
    watchers: Sequence[Callbacks], objective: CrossEntropy, recorder: Recorder | None,
) -> Fit:  # fmt: skip
    """Trains the attached model. Raises: as `fit`."""
    with meter.phase("setup"), exact_convolutions():
        trainee, train, looks = _trainee(model, prepared)
        if trainee is model and prepared.speed == "compile":
            trainee = compiled(model, prepared)
        checks = _checks(prepared, looks)
    safe_point()
    with meter.phase("train"):
        fitted = fit(
            trainee, prepared.methods, train, recipe=prepared.settings.recipe, precision=prepared.settings.precision,
            device=prepared.device, streams=streams, checks=checks, state=state, callbacks=Several(watchers),
            mixing=prepared.mixing, objective=objective, recorder=recorder,
        )  # fmt: skip
    in_one_piece = isinstance(trainee, CompiledTrunk) and trainee.compiled
    fitted.mode = "compile" if in_one_piece else "graph" if fitted.captured else "eager"
    return fitted


@contextmanager
def _kept_if_stopped(checkpoints: Checkpoints | None) -> Iterator[None]:
    """Within, whoever stops the run leaves its state: what was interrupted, or the state after training."""
    try:
        yield
    except Interrupted as interrupted:
        if checkpoints is not None:
            checkpoints.save(interrupted.state)
        raise
    except Stopped:
        if checkpoints is not None:
            checkpoints.save_last()
        raise


def _objective(model: nn.Module, prepared: PreparedRun) -> tuple[CrossEntropy, tuple[str, ...]]:
    """(what training minimises, what a record says of it); with PACE, noise is put into the model."""
    settings, pace = prepared.settings, prepared.pace
    if pace is None:
        return CrossEntropy(settings.recipe, settings.precision), ()
    noise = add_noise(model, pace.sigma)
    images = len(prepared.task.splits[prepared.plan.train]) if pace.mode == "fast" else 0
    memory = torch.zeros(images, settings.dataset["classes"], device=prepared.device)
    return Consistency(settings.recipe, settings.precision, pace, noise.head, memory), (noise.said(),)


def _trainee(model: nn.Module, prepared: PreparedRun) -> tuple[nn.Module, Batches, Looks]:
    """(what is trained, its batches, the batches of another split): the model on images, or, where the images stay as
    they are and all that trains stands behind or beside a frozen backbone, that part on what one pass over them gave."""
    images = prepared.batches(prepared.plan.train, train=True)
    mode = "eval" if any(method.backbone_mode == "eval" for method in prepared.methods) else "train"
    split = None
    if not images.augment and not prepared.mixing:
        split = split_head(model, backbone_mode=mode) or split_cached_activations(model, backbone_mode=mode)
    if split is None:
        return model, images, prepared.batches
    backbone, trained = split

    def features(batches: Batches, batch: int, every: Batches | None = None) -> Batches:
        cast = autocast(prepared.settings.precision, prepared.device)
        return FeatureBatches(backbone, batches, batch=batch, autocast=cast, every=every)

    size = prepared.settings.recipe.batch
    every = prepared.batches(prepared.plan.train, size=size) if images.drop_last else None
    return trained, features(images, size, every), lambda name: features(prepared.batches(name), TEST_BATCH)


def _checks(prepared: PreparedRun, looks: Looks) -> list[Check]:
    plan = prepared.plan
    return [Check(plan.check, looks(plan.check), plan.check_epochs, plan.choose)] if plan.check else []


def compiled(model: nn.Module, prepared: PreparedRun) -> CompiledTrunk:
    """The model as one compiled function, its compiler's cache below paths.cache; the runs of a sweep share a compilation."""
    settings = prepared.settings
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(settings.paths.cache.absolute() / "compiled"))
    told = method_settings(settings) | {"backbone": settings.backbone, "drop_path": settings.recipe.drop_path}
    key = (repr(told), settings.recipe.batch, settings.precision, prepared.device)
    return CompiledTrunk(model, key=key)


def _final_score(model: nn.Module, prepared: PreparedRun, fitted: Fit, recorder: Recorder | None) -> Score:
    """One pass over the reported split.

    A protocol whose last look was at that split after the last epoch has its score already, but not what was predicted.
    """
    plan, settings = prepared.plan, prepared.settings
    seen = fitted.check(plan.final, settings.recipe.epochs) if plan.check == plan.final else None
    keep = settings.save_predictions or settings.diagnostics
    if seen is not None and not keep:
        return Score(top1_pct=seen, n=len(prepared.task.splits[plan.final]), loss=float("nan"))
    batches = prepared.batches(plan.final)
    return top1(
        model, batches, precision=settings.precision, device=prepared.device, recorder=recorder, keep=keep
    )
