"""The one training loop."""

import math
import statistics
import time
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from karst_bench.engine.callbacks import Callbacks, EpochRow
from karst_bench.engine.captured import CapturedStep, Recorder
from karst_bench.engine.checkpoint import (
    State,
    copy_in,
    copy_out,
    fitting,
    nest,
    new_state,
    optimizer_in,
    optimizer_out,
    part,
    random_in,
    random_out,
    trained,
)
from karst_bench.engine.evaluate import top1
from karst_bench.engine.meter import EpochMeter, Stopwatch, synchronize
from karst_bench.engine.mix import Mix, mix
from karst_bench.engine.objective import CrossEntropy
from karst_bench.engine.optim import Schedule, build_optimizer, param_groups
from karst_bench.engine.outcome import Check, DivergedError, Fit, Interrupted
from karst_bench.engine.position import position_of
from karst_bench.engine.recipe import Recipe
from karst_bench.engine.repeatable import RepeatableStep
from karst_bench.engine.step import train_mode, train_step
from karst_bench.engine.streams import Streams, exact_convolutions, forked
from karst_bench.errors import CheckpointError, UserError
from karst_bench.methods.base import Batches, Method
from karst_bench.stopping import Stopped

CHECK_LOSS_EVERY = 50  # steps between looks at the loss inside an epoch on a CPU; a GPU would be waited for


def fit(
    model: nn.Module, methods: Sequence[Method], batches: Batches, *, recipe: Recipe, precision: str,
    device: torch.device, streams: Streams, checks: Sequence[Check] = (), state: State | None = None,
    callbacks: Callbacks | None = None, mixing: tuple[float, float] | None = None, objective: CrossEntropy | None = None,
    recorder: Recorder | None = None,
) -> Fit:  # fmt: skip
    """Train the parameters that need a gradient, in place.

    state: continue from there (exact on the same machine type and thread count). mixing: the a of mixup's and of cutmix's
    Beta(a, a), for batches that are mixed with themselves. objective: what is minimised besides penalties; cross-entropy.
    recorder: records the step, which is then replayed.
    Raises: Interrupted if a callback wants to stop, or a signal during a check; DivergedError on a loss or weight that is not
    finite; CheckpointError where `state` is not this run's; UserError if nothing can be trained; whatever a callback raises.
    """
    objective = objective or CrossEntropy(recipe, precision)
    loop = _Loop(model, methods, batches, recipe, precision, device, streams, checks, mixing, objective, recorder)
    watch = callbacks or Callbacks()
    with closing(loop), forked(streams.seed_of("dropout")), exact_convolutions():
        if state is not None:
            _resume(loop, state)
        watch.on_start(recipe.epochs, loop.per_epoch, loop.step)
        try:
            while loop.epoch < recipe.epochs:
                loop.run_epoch(watch)
                watch.on_epoch(loop.end_epoch())
                for seen in loop.seen_in(loop.epoch):
                    watch.on_check(loop.epoch, seen["split"], seen["top1_pct"])
                watch.on_state(loop.state)
        finally:
            watch.on_end()
        return loop.result()


def _resume(loop: "_Loop", state: State) -> None:
    """Sets the loop to a state. Raises: CheckpointError for one that is not of this run, or not of any."""
    try:
        loop.restore(state)
    except (UserError, LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"the checkpoint is not this run's ({error})") from error


class _Loop:
    """The position of a run and everything that moves with it."""

    def __init__(
        self, model: nn.Module, methods: Sequence[Method], batches: Batches, recipe: Recipe, precision: str,
        device: torch.device, streams: Streams, checks: Sequence[Check], mixing: tuple[float, float] | None,
        objective: CrossEntropy, recorder: Recorder | None,
    ) -> None:  # fmt: skip
        self.model, self.methods, self.batches, self.recipe = model, methods, batches, recipe
        self.precision, self.device, self.streams, self.checks = precision, device, streams, checks
        self.mixing, self.objective = mixing, objective
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self.per_epoch = len(batches)
        if not named or not self.per_epoch:
            raise UserError(f"nothing to train: {len(named)} trainable tensors, {self.per_epoch} steps in an epoch")
        self.names = {id(p): name for name, p in named}
        self.trained = trained(model)
        self.optimizer = build_optimizer(param_groups(named, methods, recipe), recipe, captured=recorder is not None)
        self.recorder = recorder
        self.do_step = RepeatableStep(self.plain_step, device) if device.type == "cuda" else self.plain_step
        self.captured = None if recorder is None else CapturedStep(self.do_step, self.trained, self.optimizer, recorder)
        self.schedule = Schedule(self.optimizer, recipe, self.per_epoch)
        self.backbone_mode = "eval" if any(m.backbone_mode == "eval" for m in methods) else "train"
        self.epoch = 0
        self.now = EpochMeter()
        self.order_at_start = streams.order.get_state()
        self.curves: dict[str, list[Any]] = {k: [] for k in ("epoch", "train_loss", "train_top1_pct", "lr", "checks")}
        self.best: dict[str, Tensor] = {}
        self.best_at: tuple[int, float] | None = None
        self.images = 0
        self.train_watch, self.check_watch = Stopwatch(), Stopwatch()
        self.step_ms: list[float] = []

    @property
    def step(self) -> int:
        """Steps done in the whole run."""
        return self.epoch * self.per_epoch + len(self.now.sizes)

    def run_epoch(self, watch: Callbacks) -> None:
        done, total = len(self.now.sizes), self.recipe.epochs * self.per_epoch
        if done == 0:
            self.order_at_start = self.streams.order.get_state()
            self.on_epoch()
        train_mode(self.model, self.backbone_mode)
        places = self.objective.places(self.order_at_start)
        with self.train_watch:
            last = start = time.perf_counter()
            for x, y in self.batches.epoch(self.streams.order, skip=done):
                at = len(self.now.sizes) * self.recipe.batch
                self.one_step(x, y, total, None if places is None else places[at : at + len(y)].to(y.device))
                watch.on_step(self.epoch + 1, self.step, self.now.means)
                if self.device.type == "cpu":
                    self.step_ms.append(1e3 * (time.perf_counter() - last))
                    last = time.perf_counter()
                if watch.should_stop():
                    raise Interrupted(self.state())
            seen = len(self.now.losses) // CHECK_LOSS_EVERY * CHECK_LOSS_EVERY if self.device.type == "cpu" else 0
            self.check_losses(seen)
            synchronize(self.device)
            if self.device.type != "cpu" and done < self.per_epoch:
                self.step_ms.append(1e3 * (time.perf_counter() - start) / (self.per_epoch - done))

    def one_step(self, x: Tensor, y: Tensor, total: int, index: Tensor | None) -> None:
        step = self.step
        self.schedule.set(self.epoch, step)
        for method in self.methods:
            method.before_step(step, total)
        mixed = None
        if self.mixing is not None:
            x, mixed = mix(x, y, self.streams.augment, self.mixing)
        if self.captured is not None:
            loss, hits, seen = self.captured(x, y, mixed)
        else:
            loss, hits, seen = self.do_step(x, y, mixed, index)
        for method in self.methods:
            method.after_step(step, total)
        self.now.losses.append(loss)
        self.now.hits.append(hits)
        self.now.sizes.append(seen)
        self.images += len(y)
        if self.device.type == "cpu" and len(self.now.losses) % CHECK_LOSS_EVERY == 0:
            self.check_losses(len(self.now.losses) - CHECK_LOSS_EVERY)

    def plain_step(self, x: Tensor, y: Tensor, mixed: Mix | None, index: Tensor | None = None) -> tuple[Tensor, Tensor, int]:
        return train_step(
            self.model, x, y, methods=self.methods, optimizer=self.optimizer, recipe=self.recipe,
            objective=self.objective, mixed=mixed, step=self.step, index=index,
        )  # fmt: skip

    def check_losses(self, first: int) -> None:
        """Raise DivergedError at the first step since `first` (of this epoch) whose loss is not finite."""
        unseen = self.now.losses[first:]
        for i, loss in enumerate(torch.stack(unseen).tolist() if unseen else (), first):
            if not math.isfinite(loss):
                step = self.epoch * self.per_epoch + i
                self.schedule.set(self.epoch, step)
                raise DivergedError(self.complaint(f"the training loss became {loss} at step {step + 1}"))

    def end_epoch(self) -> EpochRow:
        """Write the curves, do the checks that are due and move on to the next epoch."""
        epoch = self.epoch + 1
        try:  # all of them before anything is noted: one that is broken off leaves the state after the last step
            scores = [(check, self.look(check)) for check in self.checks if epoch in check.epochs]
        except Stopped as stopped:
            raise Interrupted(self.state()) from stopped
        loss, top1_pct = self.now.means()
        self.schedule.set(self.epoch, self.step - 1)  # a run resumed right here has not set it yet
        row = {"epoch": epoch, "train_loss": loss, "train_top1_pct": top1_pct, "lr": self.schedule.lr}
        for key, value in row.items():
            self.curves[key].append(value)
        for check, seen in scores:
            row[f"{check.split.rstrip('0123456789')}_top1_pct"] = self.note(check, epoch, seen)
        self.epoch, self.now = epoch, EpochMeter()
        return row

    def seen_in(self, epoch: int) -> list[dict[str, Any]]:
        """The checks done after that epoch (counted from 1)."""
        return [seen for seen in self.curves["checks"] if seen["epoch"] == epoch]

    def look(self, check: Check) -> float:
        """The top-1 of a check, in per cent. Raises: Stopped."""
        with self.check_watch:
            score = top1(
                self.model, check.batches, precision=self.precision, device=self.device, recorder=self.recorder
            )
        return score.top1_pct

    def note(self, check: Check, epoch: int, seen: float) -> float:
        """Put what a check saw into the curves, and keep the weights if it chooses and has never seen better."""
        self.curves["checks"].append({"epoch": epoch, "split": check.split, "top1_pct": seen})
        if check.choose and (self.best_at is None or seen > self.best_at[1]):
            self.best_at, self.best = (epoch, seen), copy_out(self.trained)
        return seen

    def on_epoch(self) -> None:
        for method in self.methods:
            method.on_epoch(self.epoch, self.recipe.epochs)

    def complaint(self, what: str) -> str:
        r = self.recipe
        return (
            f"{what} of {r.epochs * self.per_epoch} (epoch {self.epoch + 1}, lr {self.schedule.lr:.3g}); "
            f"lower recipe.lr={r.lr} or set recipe.clip_grad"
        )

    def result(self) -> Fit:
        """Put the chosen weights back, make sure that all are finite, and sum up."""
        if self.best:
            copy_in(self.trained, self.best)
        self.optimizer.zero_grad(set_to_none=True)
        finite = torch.stack([p.detach().isfinite().all() for p in self.model.parameters() if p.requires_grad])
        if not finite.all():
            raise DivergedError(self.complaint(f"a trained weight is not finite after step {self.step}"))
        epoch, best = self.best_at or (None, None)
        return Fit(
            curves=self.curves, best_epoch=epoch, best_top1_pct=best, steps=self.step, images=self.images,
            train_s=self.train_watch.seconds, check_s=self.check_watch.seconds,
            step_ms_median=statistics.median(self.step_ms) if self.step_ms else None,
            captured=self.captured is not None and self.captured.captured,
        )  # fmt: skip

    def close(self) -> None:
        """Lets go of what was recorded."""
        if self.captured is not None:
            self.captured.close()

    def state(self) -> State:
        """Everything needed to go on from here, copied to the CPU."""
        random = random_out(self.streams, self.device) | {"order_at_start": self.order_at_start}
        if not self.now.sizes:
            random["order_at_start"] = self.streams.order.get_state()
        meta = {
            "epoch": self.epoch, "epochs": self.recipe.epochs, "steps_per_epoch": self.per_epoch,
            "step": self.step, "best_at": list(self.best_at) if self.best_at else None, "images": self.images,
            "curves": {key: list(values) for key, values in self.curves.items()},
            "train_s": self.train_watch.seconds, "check_s": self.check_watch.seconds,
        }  # fmt: skip
        whole = nest({
            "model": new_state(copy_out(self.trained)),
            "optim": new_state(optimizer_out(self.optimizer, self.names)),
            "random": new_state(random),
            "best": new_state(self.best),
            "now": self.now.state(),
            "objective": new_state(self.objective.state()),
        })  # fmt: skip
        return new_state(whole["tensors"], whole["meta"] | {"at": meta})

    def restore(self, state: State) -> None:
        """Continue from a state of the same configuration.

        A method hears `on_epoch` again when its epoch is resumed midway, before weights and generators are set back,
        so what it draws or changes there is undone.
        """
        at = position_of(state["meta"]["at"], epochs=self.recipe.epochs, steps_per_epoch=self.per_epoch)
        self.epoch, self.images, self.best_at = at.epoch, at.images, at.best_at
        self.curves = msgspec.to_builtins(at.curves)
        self.train_watch, self.check_watch = Stopwatch(at.train_s), Stopwatch(at.check_s)
        self.now = EpochMeter.restored(part(state, "now"), self.device)
        if len(self.now.sizes) > self.per_epoch or (self.now.sizes and at.epoch == at.epochs):
            raise UserError(f"checkpoint: {len(self.now.sizes)} steps of epoch {at.epoch + 1} of {at.epochs} are done")
        if self.now.sizes:
            self.on_epoch()
        copy_in(self.trained, part(state, "model")["tensors"])
        optimizer_in(self.optimizer, self.names, part(state, "optim")["tensors"])
        self.best = part(state, "best")["tensors"]
        if self.best:
            fitting(self.trained, self.best)
        self.objective.restore(part(state, "objective")["tensors"])
        random = part(state, "random")["tensors"]
        random_in(self.streams, self.device, random)
        self.order_at_start = random["order_at_start"]
        self.streams.order.set_state(self.order_at_start)
