"""The stages of a method that searches: its supernet is trained, then evolution compares subnets on validation images.

Neither ever opens the test split. A stopped search goes on between two candidates, a stopped supernet between two steps.
"""

import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from karst_bench.adapt.attach import adapted_model
from karst_bench.engine.callbacks import Callbacks, Several
from karst_bench.engine.checkpoint import State, copy_in, copy_out, new_state, trained
from karst_bench.engine.evaluate import top1
from karst_bench.engine.evolution import Candidate, candidates_in, entry_of, evolve, known_fitness
from karst_bench.engine.outcome import Fit, Interrupted
from karst_bench.engine.progress import PAUSE_S, progress
from karst_bench.engine.protocols import split_of
from karst_bench.engine.streams import Streams
from karst_bench.engine.train import fit
from karst_bench.errors import CheckpointError
from karst_bench.methods.base import Method
from karst_bench.methods.subnets import SearchStages, Subnet
from karst_bench.records.store import Store
from karst_bench.run.prepare import PreparedRun
from karst_bench.run.stages import PASS_BACK, Found, Stage, Workload
from karst_bench.run.watchers import Checkpoints, StopSignals
from karst_bench.stopping import Stopped

log = logging.getLogger(__name__)
SAVE_S = 5.0  # between two checkpoints of a search, whose candidates take a fraction of a second each


@dataclass(frozen=True)
class SubnetSearch:
    """A run's method that searches, its stages, and the splits they use."""

    prepared: PreparedRun
    method: Method
    stages: SearchStages
    fit_split: str
    val_split: str

    @property
    def streams(self) -> Streams:
        """Generators of its own: what a search draws shifts nothing of the training after it."""
        return Streams(Streams(self.prepared.settings.seed).seed_of("supernet"))

    def supernet(self) -> nn.Module:
        """The supernet as it starts, on the backbone and from the head that the run's training has."""
        return self.prepared.model(Streams(self.prepared.settings.seed), {})


def search_stages(prepared: PreparedRun, store: Store, watchers: Sequence[Callbacks]) -> Found:
    """What a run's search found; watchers see the supernet's epochs where nothing is trained after it.

    Raises: Stopped with a checkpoint written; DivergedError; UserError where no subnet keeps to the budget.
    """
    method = next(method for method in prepared.methods if method.search_stages())
    stages, splits = method.search_stages(), prepared.task.splits
    assert stages is not None
    search = SubnetSearch(prepared, method, stages, *(split_of(stage.split, splits) for stage in (stages.supernet, stages.evolve)))
    names = ("supernet", "evolve", "train") if stages.train else ("supernet", "evolve")
    work = Workload(_images(search))
    supernet, evolution = (Stage(prepared, store, names, name, work) for name in names[:2])
    watching = () if stages.train else watchers
    trained_on = f"{stages.supernet.epochs} epochs of {search.fit_split}"
    net = supernet.product(lambda saved: _supernet(search, supernet, saved, watching), trained_on)
    compared = f"{candidates_in(stages.evolve)} subnets on {search.val_split}"
    product = evolution.product(lambda saved: _evolve(search, evolution, net, saved), compared)
    meta = product["meta"]
    artefact = method.found(meta["subnet"], {key: meta[key] for key in ("params", "val_top1_pct", "candidates")})
    note = (f"searched: the best of {meta['candidates']} subnets on {search.val_split}, {meta['params']} scalars, "
            f"{meta['val_top1_pct']:.2f} % there")  # fmt: skip
    log.info("%s: %s%s", evolution.label, note, work.text())
    found = Found({method.name: artefact}, evolution.written, (note,))
    if stages.train:
        return found
    return dataclasses.replace(found, kept=net, fit=Fit(**net["meta"]["fit"]), split=search.fit_split)


def _images(search: SubnetSearch) -> dict[str, int]:
    """The work of each stage, in images looked at."""
    splits, recipe = search.prepared.task.splits, search.prepared.settings.recipe
    found = {
        "supernet": PASS_BACK * search.stages.supernet.epochs * len(splits[search.fit_split]),
        "evolve": candidates_in(search.stages.evolve) * len(splits[search.val_split]),
    }
    if search.stages.train:
        found["train"] = PASS_BACK * recipe.epochs * len(splits[search.prepared.plan.train])
    return found


def _supernet(search: SubnetSearch, stage: Stage, saved: State | None, watchers: Sequence[Callbacks]) -> State:
    """The supernet's trained tensors, with its fit."""
    prepared, plan, model = search.prepared, search.stages.supernet, search.supernet()
    recipe = dataclasses.replace(prepared.settings.recipe, epochs=plan.epochs, lr=plan.lr)
    checkpoints = Checkpoints(stage.store, stage.key, prepared.settings.checkpoint_s)
    try:
        fitted = fit(
            model, prepared.methods, prepared.batches(search.fit_split, train=True), recipe=recipe,
            precision=prepared.settings.precision, device=prepared.device, streams=search.streams, state=saved,
            callbacks=Several([progress(stage.label), checkpoints, *watchers, StopSignals()]), mixing=prepared.mixing,
        )  # fmt: skip
    except Interrupted as interrupted:
        checkpoints.save(interrupted.state)
        raise
    return new_state(copy_out(trained(model)), {"fit": vars(fitted)})


def _evolve(search: SubnetSearch, stage: Stage, net: State, saved: State | None) -> State:
    """The log of all candidates and which is the best."""
    model = search.supernet()
    copy_in(trained(model), net["tensors"])
    space = search.method.subnets(adapted_model(model).spec)
    seen: list[Candidate] = []
    known = _known(saved)
    seed = search.streams.seed_of("evolve")
    checkpoints = Checkpoints(stage.store, stage.key, SAVE_S)
    last_line, signals = time.monotonic(), StopSignals()
    try:
        for candidate in evolve(space, _fitness(search, model), search.stages.evolve, seed=seed, known=known):
            seen.append(candidate)
            _say(stage, candidate, min(seen, key=lambda one: one.rank), due=time.monotonic() - last_line > PAUSE_S)
            last_line = time.monotonic() if time.monotonic() - last_line > PAUSE_S else last_line
            if signals.should_stop():
                raise Interrupted(_logged(seen))
            if len(seen) > len(known):
                checkpoints.on_state(lambda: _logged(seen))
    except Stopped:
        if len(seen) > len(known):
            checkpoints.save(_logged(seen))
        raise
    best = min(seen, key=lambda one: one.rank)
    facts = {"subnet": list(best.subnet), "shown": space.shown(best.subnet), "params": best.params,
             "val_top1_pct": best.fitness, "number": best.number, "candidates": len(seen)}  # fmt: skip
    return new_state(None, _logged(seen)["meta"] | facts)


def _fitness(search: SubnetSearch, model: nn.Module) -> Callable[[Subnet], float]:
    """Top-1 of a subnet on the validation split, in per cent, with the supernet's weights."""
    prepared, batches = search.prepared, search.prepared.batches(search.val_split)

    def fitness(subnet: Subnet) -> float:
        search.method.choose(subnet)
        return top1(model, batches, precision=prepared.settings.precision, device=prepared.device).top1_pct

    return fitness


def _known(saved: State | None) -> dict[Subnet, float]:
    """The fitnesses that a checkpoint holds. Raises: CheckpointError."""
    try:
        return known_fitness(saved["meta"]["log"]) if saved else {}
    except (LookupError, TypeError, ValueError) as error:
        raise CheckpointError(f"the checkpoint is no log of candidates ({error})") from error


def _logged(seen: Sequence[Candidate]) -> State:
    return new_state(None, {"log": [entry_of(candidate) for candidate in seen]})


def _say(stage: Stage, candidate: Candidate, best: Candidate, *, due: bool) -> None:
    """Every candidate goes to the log; a person is told now and then."""
    log.debug("%s: candidate %d, generation %d, %s, %d scalars, %.2f %%, %s", stage.label, candidate.number,
              candidate.generation, candidate.origin, candidate.params, candidate.fitness, candidate.subnet)  # fmt: skip
    if due:
        log.info("%s: candidate %d of generation %d, the best so far %.1f %%", stage.label, candidate.number + 1,
                 candidate.generation, best.fitness)  # fmt: skip
