"""Hyper-parameter search on the val split: Optuna's TPE and median pruning over whole runs of the pipeline.

Every trial is `protocol=val`: trained on train800, judged by val200; the test split is never handed to it. Trial 0 is
the default recipe. Workers share one study through a journal file (safe on network folders); a worker that dies loses
nothing, since its trial is asked again. Trials keep their records in the study's own folder, apart from results.
"""

import hashlib
import itertools
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from omegaconf import OmegaConf
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from karst_bench import files
from karst_bench.config.compose import settings_of
from karst_bench.config.sweeps import listed_values
from karst_bench.config.tuned import backbone_facts, same_backbone, table_path
from karst_bench.engine.callbacks import Callbacks
from karst_bench.engine.outcome import DivergedError
from karst_bench.errors import UserError
from karst_bench.records import record as schema
from karst_bench.records.identity import cell_key
from karst_bench.records.lease import Lease, Leases
from karst_bench.records.provenance import collect
from karst_bench.run.journal import opened_study
from karst_bench.run.pipeline import run
from karst_bench.run.search_space import Space, check_default, read_space

TRIALS = 30
STARTUP = 5  # random trials before TPE models anything, and before a trial can be pruned
WARMUP = 0.3  # fraction of the epochs before a trial can be pruned
FORCED = ("protocol=val", "save_adapter=false", "tuned=none", "force=false", "action=train")
log = logging.getLogger(__name__)


class PrunedError(UserError):
    """The pruner gave up on a trial; raised through the pipeline, which keeps no failed record of a UserError."""


@dataclass(frozen=True)
class Search:
    """One study: what is fixed, what is searched, where it is kept."""

    overrides: tuple[str, ...]
    method: str
    dataset: str
    defaults: Mapping[str, object]
    space: Space
    points: tuple[Mapping[str, object], ...]  # what is tried first, in this order; the default is the first
    exhaustive: bool  # the points are all there is
    folder: Path
    config: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The study's name, which is its folder's."""
        return self.folder.name

    def budget(self, asked: int | None) -> int:
        """Trials of the whole study: as asked, by default 30; a grid has no more than its points."""
        return min(asked or len(self.points), len(self.points)) if self.exhaustive else asked or TRIALS


def search(overrides: Sequence[str]) -> Search:
    """The study of `method=... dataset=...`; keys with several values (`recipe.lr=1e-3,1e-2`) make it their grid.

    Raises: UserError where a forced key is given, a key is no number of the configuration or a default is outside.
    """
    given = {override.partition("=")[0] for override in overrides}
    for forced in FORCED:
        if (key := forced.partition("=")[0]) in given:
            raise UserError(f"{key}= cannot be chosen here: a search runs with {forced}; leave it out")
    listed = listed_values(overrides)
    fixed = [override for override in overrides if override.partition("=")[0] not in listed]
    config = settings_of([*fixed, *FORCED]).as_config()
    refuse_test(config["protocol"])
    method, dataset = config["method"]["name"], config["dataset"]["name"]
    space: Space = {key: CategoricalDistribution(values) for key, values in listed.items()} or read_space(
        method, given, regularizer=config["regularizer"]["name"]
    )
    defaults = {key: OmegaConf.select(OmegaConf.create(config), key) for key in space}
    for key, distribution in space.items():
        check_default(key, defaults[key], distribution)
    points = [dict(zip(listed, values, strict=True)) for values in itertools.product(*listed.values())]
    result = json.dumps({key: repr(distribution) for key, distribution in space.items()}, sort_keys=True)
    mark = hashlib.sha256((cell_key(config) + result).encode()).hexdigest()[:8]
    folder = Path(config["paths"]["results"]) / "tune" / f"{method}-{dataset.replace('/', '-')}-{mark}"
    words = (*fixed, *FORCED, f"paths.results={folder}")
    ordered = (defaults, *(point for point in points if listed and point != defaults))
    return Search(words, method, dataset, defaults, space, ordered, bool(listed), folder, config)


def refuse_test(protocol: Mapping[str, Any]) -> None:
    """Raise UserError unless the protocol trains on the fit part and neither checks nor reports the test split."""
    if protocol["train"] != "fit" or protocol["final"] != "val" or protocol["checks"] not in ("val", None):
        raise UserError(f"protocol {dict(protocol)} may read more than train and val; a search needs protocol=val")


class Reports(Callbacks):
    """Tells a trial every look at val, and ends the run when the pruner gives it up; trial 0, the default, is never pruned."""

    def __init__(self, trial: optuna.Trial) -> None:
        self.trial = trial

    def on_check(self, epoch: int, split: str, top1_pct: float) -> None:
        if not split.startswith("val"):
            raise RuntimeError(f"a search was shown the split {split}")
        self.trial.report(top1_pct, epoch)
        if self.trial.should_prune() and not self.trial.user_attrs.get("default"):
            raise PrunedError(f"trial {self.trial.number} is below the median at epoch {epoch}")


class Worker:
    """One of any number of processes that work on a study."""

    def __init__(self, found: Search, trials: int) -> None:
        """`trials` is the size of the whole study, whoever runs them and however often it is resumed."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        found.folder.mkdir(parents=True, exist_ok=True)
        self.search, self.trials = found, trials
        self.leases = Leases(found.folder)
        warmup = int(WARMUP * found.config["recipe"]["epochs"])
        pruner = optuna.pruners.MedianPruner(n_startup_trials=STARTUP, n_warmup_steps=warmup)
        with self._alone():
            self.study = opened_study(found.folder / "journal.log", found.name, found.space, pruner)
            if not self.study.get_trials(deepcopy=False):
                for number, point in enumerate(found.points):
                    self.study.enqueue_trial(dict(point), user_attrs={"default": True} if number == 0 else None)

    def work(self) -> None:
        """Run trials until the study has its number. Raises whatever a run raises but divergence and pruning."""
        while True:
            with self._alone():
                self._ask_lost_again()
                if len(self._counted()) >= self.trials:
                    return
                self.study.sampler = optuna.samplers.TPESampler(
                    seed=self.search.config["seed"] * 100_003 + len(self.study.get_trials(deepcopy=False)),
                    n_startup_trials=STARTUP,
                )
                trial = self.study.ask(self.search.space)
                lease = self.leases.acquire(self._run_id(trial.number))
            assert lease is not None, "a trial just asked for is nobody else's"
            with lease:
                self._finish(trial)

    def _finish(self, trial: optuna.Trial) -> None:
        started = time.perf_counter()
        try:
            value = self._value(trial)
        except PrunedError:
            self.study.tell(trial, state=TrialState.PRUNED)
            log.info("trial %d: pruned, %s", trial.number, _shown(trial.params))
            return
        self.study.tell(trial, value)
        seconds = time.perf_counter() - started
        log.info("trial %d: val top-1 %.2f %%, %s (%.0f s)", trial.number, value, _shown(trial.params), seconds)

    def _value(self, trial: optuna.Trial) -> float:
        """Val top-1 in percent after the last epoch; 0 where training diverged, so that the search learns of it."""

        words = [*self.search.overrides, *(f"{key}={value}" for key, value in trial.params.items())]
        try:
            record = run(settings_of(words), watchers=[Reports(trial)])
        except UserError as error:
            if isinstance(error.__cause__, DivergedError):
                return 0.0
            raise
        assert record.metrics.val_top1_last_pct is not None, "protocol=val reports the val split"
        return record.metrics.val_top1_last_pct

    def _alone(self) -> Lease:
        """No other worker asks or counts meanwhile."""
        return self.leases.wait(self._run_id(-1))

    def _run_id(self, number: int) -> str:
        return hashlib.sha256(f"{self.search.name}/{number}".encode()).hexdigest()[:16]

    def _ask_lost_again(self) -> None:
        """Trials whose worker died are closed and put first in the queue, with the same values."""
        replaced = {trial.user_attrs.get("replaces") for trial in self.study.get_trials(deepcopy=False)}
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if self.leases.holder(self._run_id(trial.number)) is not None:
                continue
            if self.study.trials[trial.number].state != TrialState.RUNNING:
                continue  # its worker told the result and let go between our two looks
            if trial.number not in replaced:
                attributes = dict(trial.user_attrs) | {"replaces": trial.number}
                self.study.enqueue_trial(dict(trial.params), user_attrs=attributes)
            self.study.tell(trial.number, state=TrialState.FAIL)

    def _counted(self) -> list[FrozenTrial]:
        """The trials that fill the budget: not those still in the queue, not those asked again."""
        states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
        return self.study.get_trials(deepcopy=False, states=states)


def _shown(params: Mapping[str, object]) -> str:
    return " ".join(
        f"{key}={value:.3g}" if isinstance(value, float) else f"{key}={value}" for key, value in params.items()
    )


def summary(worker: Worker) -> dict[str, Any]:
    """What a finished study found: values of the best trial, its accuracy, and the default's, on val."""
    finished = worker.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not finished:
        raise UserError(f"study {worker.search.name} has no finished trial yet")
    best = max(finished, key=lambda trial: (trial.value or 0.0, -trial.number))
    default = next((trial for trial in finished if trial.user_attrs.get("default")), None)
    return {
        "values": dict(best.params),
        "val_top1_pct": best.value,
        "default_val_top1_pct": default.value if default else None,
        "trials": len(worker.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))),
        "best_trial": best.number,
    }


def tuned_table(found: Search) -> Path:
    """Where `tuned=ours` looks for what was found: beside the results, never among the committed configuration."""
    return table_path(Path(found.config["paths"]["results"]) / "tuned", "ours", found.method)


def write_tuned(worker: Worker, table: Path) -> dict[str, Any]:
    """Put what the study found into a table of tuned values, beside other datasets' entries; returns the summary.

    Below the backbone and weights that were searched, the entry is {dataset: {key: value}}; `provenance` says from which study,
    code and accuracies it comes. Raises: UserError for a table among the suite's own configuration, which is not rewritten.
    """
    if table.resolve().is_relative_to(files.packaged("conf").resolve()):
        raise UserError(f"table={table} is part of the suite's configuration, which a search does not change; leave table= out")
    found, study = summary(worker), worker.search
    code, backbone = collect(), backbone_facts(study.config["backbone"])
    result = {key: value for key, value in found.items() if key != "values"} | {
        "searched": {key: str(distribution) for key, distribution in study.space.items()},
        "study": study.name,
        "split": "val",
        "seed": study.config["seed"],
        "epochs": study.config["recipe"]["epochs"],
        "created": schema.now(),
        "commit": code.commit,
        "dirty": code.dirty,
    }
    with Leases(study.folder.parent).wait(hashlib.sha256(str(table).encode()).hexdigest()[:16]):
        entries = dict(OmegaConf.to_container(OmegaConf.load(table)) if table.is_file() else {})  # type: ignore[arg-type]
        if entries and "searched" not in entries:
            raise UserError(f"{table} does not say which backbone its values were found on; move it away, and this is written anew")
        entries["source"] = "this suite's search on the val split (karst-bench tune); see provenance"
        parts = entries.setdefault("searched", [])
        part = next((part for part in parts if same_backbone(part["backbone"], backbone)), None)
        if part is None:
            parts.append(part := {"backbone": backbone, "values": {}, "provenance": {}})
        part["values"][study.dataset] = found["values"]
        part["provenance"][study.dataset] = result
        head = f"# python run.py method={study.method} dataset={study.dataset} tuned={table.parent.name}\n"
        files.write(table, (head + OmegaConf.to_yaml(OmegaConf.create(entries))).encode(), once=False)
    return found
