"""Gives the runs of a sweep to a cluster and waits for them: the process of `karst-bench run ... hydra/launcher=submitit_slurm`.

What is done already is not submitted; the rest goes out longest first. A run whose job died without a word is submitted again,
and one that another process had when the others have ended. The same command, given again, finds what was done.
"""

import logging
import os
import time
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any, Protocol

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from karst_bench import compat, stopping
from karst_bench.cli.clusters import LAUNCHERS, launcher_of
from karst_bench.cli.clusters.job import Outcome, RunJob, ours
from karst_bench.config import compose as config
from karst_bench.config import sweeps
from karst_bench.config.messages import friendly
from karst_bench.config.option_files import config_dir, options
from karst_bench.config.places import with_paths
from karst_bench.errors import BusyError, UserError
from karst_bench.run import status
from karst_bench.run.status import SweepCell
from karst_bench.stopping import Stopped

ATTEMPTS = 3  # a run whose jobs die is submitted so often
log = logging.getLogger(__name__)


class Cluster(Protocol):
    """Who runs jobs. at_once: how many are handed over at a time, the others wait here; None: all."""

    at_once: int | None
    left_behind: str  # what becomes of jobs that this process does not wait for

    def submit(self, work: Sequence[RunJob]) -> list[Any]:
        """Hands jobs over; a handle for each, whose str() is what the cluster calls it. Raises: UserError."""

    def outcome(self, handle: Any) -> Outcome | None:
        """How that job ended; None while it runs or waits."""

    def pause_s(self, handles: int) -> float:
        """How long to wait before so many are asked again."""


def launch(overrides: Sequence[str]) -> None:
    """Runs what the words stand for on the cluster that they name, and returns when all of it is done.

    Raises: UserError for bad input; BusyError listing what other processes keep; RuntimeError where runs failed or kept dying.
    """
    name = launcher_of(overrides)
    words = [word for word in overrides if not _is_hydras(word)]
    cluster = _cluster(name, _parameters(overrides))
    planned = status.sweep_cells(words)
    if any(cell.config["action"] != "train" for cell in planned):
        raise UserError(f"hydra/launcher={name} trains; an action={planned[0].config['action']} runs where it is asked for")
    todo = [cell for cell in planned if cell.state != "done" or cell.config["force"]]
    if len(todo) < len(planned):
        log.info("%d of %d runs are done already", len(planned) - len(todo), len(planned))
    _end(_Launch(cluster, sweeps.axes(words)).run(_longest_first(todo)))


class _Launch:
    """The runs of one sweep with a cluster. swept: the keys that tell them apart."""

    def __init__(self, cluster: Cluster, swept: Collection[str]) -> None:
        self.cluster, self.swept = cluster, swept
        self.waiting: list[SweepCell] = []
        self.later: list[SweepCell] = []  # other processes have them: when nothing else is left
        self.submitted: list[tuple[SweepCell, Any]] = []
        self.ended: dict[tuple[str, ...], Outcome] = {}
        self.tries: Counter[tuple[str, ...]] = Counter()

    def run(self, todo: Sequence[SweepCell]) -> dict[tuple[str, ...], Outcome]:
        """How each ended, the dead and the busy after ATTEMPTS. Raises: Stopped; jobs that were submitted stay."""
        self.waiting = list(todo)
        try:
            while self.waiting or self.later or self.submitted:
                if not self.waiting and not self.submitted:
                    self.waiting, self.later = self.later, []
                self._submit()
                self._collect(len(todo))
                if self.submitted:
                    _wait(self.cluster.pause_s(len(self.submitted)))
        except Stopped:
            log.warning("%d jobs are still with the cluster; %s", len(self.submitted), self.cluster.left_behind)
            raise
        return self.ended

    def _submit(self) -> None:
        """What waits, as much as the cluster takes."""
        at_once = self.cluster.at_once
        room = len(self.waiting) if at_once is None else max(0, at_once - len(self.submitted))
        now, self.waiting = self.waiting[:room], self.waiting[room:]
        if not now:
            return
        handles = self.cluster.submit([_job(cell) for cell in now])
        self.submitted += zip(now, handles, strict=True)
        self.tries.update(cell.overrides for cell in now)
        log.info("%d submitted, job %s", len(now), " to ".join(dict.fromkeys([str(handles[0]), str(handles[-1])])))

    def _collect(self, runs: int) -> None:
        """The outcomes there are."""
        still = []
        for cell, handle in self.submitted:
            stopping.safe_point()
            if (outcome := self.cluster.outcome(handle)) is None:
                still.append((cell, handle))
                continue
            again = outcome.kind in ("dead", "busy") and self.tries[cell.overrides] < ATTEMPTS
            if not again:
                self.ended[cell.overrides] = outcome
            else:
                (self.waiting if outcome.kind == "dead" else self.later).append(cell)
            told = log.info if outcome.kind == "done" else log.warning
            told("%d of %d ended, job %s: %s, %s: %s%s", len(self.ended), runs, handle, _name(cell, self.swept), outcome.kind,
                 outcome.said, "; it is submitted again" if again else "")  # fmt: skip
        self.submitted = still


def _name(cell: SweepCell, swept: Collection[str]) -> str:
    """What tells a run from the others of its sweep."""
    told = " ".join(word for word in cell.overrides if word.partition("=")[0] in swept)
    return told or f"{cell.config['method']['name']} on {cell.config['dataset']['name']}"


def _wait(seconds: float) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        stopping.safe_point()
        time.sleep(min(left, 0.5))


def _end(ended: dict[tuple[str, ...], Outcome]) -> None:
    """Raises: what the runs that are not done amount to."""
    of_kind = {kind: [words for words, outcome in ended.items() if outcome.kind == kind] for kind in ("bad_input", "busy")}
    undone = {words: outcome for words, outcome in ended.items() if outcome.kind != "done"}
    if not undone:
        return
    lines = "\n".join(f"  {outcome.kind}: {' '.join(words)}: {outcome.said}" for words, outcome in undone.items())
    text = f"{len(undone)} of {len(ended)} runs are not done; the same command tries them again:\n{lines}"
    if len(of_kind["busy"]) == len(undone):
        raise BusyError(text)
    raise UserError(text) if len(of_kind["bad_input"]) == len(undone) else RuntimeError(text)


def _longest_first(todo: Sequence[SweepCell]) -> list[SweepCell]:
    lengths = status.expected_s(todo)
    if lengths is None:
        return list(todo)
    return [cell for _, cell in sorted(zip(lengths, todo, strict=True), key=lambda pair: -pair[0])]


def _job(cell: SweepCell) -> RunJob:
    """The run with its folders in full: other machines see the same ones, from wherever they start."""
    given = {word.partition("=")[0] for word in cell.overrides}
    folders = [f"paths.{key}={path}" for key, path in cell.config["paths"].items() if f"paths.{key}" not in given]
    return RunJob((*cell.overrides, *folders), os.getcwd(), ours(os.environ))  # noqa: PTH109 (a link in it stays a link)


def _is_hydras(word: str) -> bool:
    return word.lstrip("+~").startswith(("hydra/", "hydra."))


def _cluster(name: str, parameters: dict[str, Any]) -> Cluster:
    if name == "ray":
        from karst_bench.cli.clusters.ray_tasks import RayTasks

        return RayTasks(parameters)
    from karst_bench.cli.clusters.submitted import Submitted

    return Submitted(name.removeprefix("submitit_"), parameters)


def _parameters(overrides: Sequence[str]) -> dict[str, Any]:
    """What stands under hydra.launcher when these words are composed. Raises: UserError."""
    config.register(ConfigStore.instance())
    compat.prefer_own_options("hydra/launcher", LAUNCHERS)
    GlobalHydra.instance().clear()
    hydras = [word for word in overrides if _is_hydras(word) and not word.startswith("hydra.mode")]
    words = [*sweeps.jobs(overrides)[0], *hydras, *config.search_path()]
    with friendly(overrides, config.composed, options), initialize_config_dir(str(config_dir()), version_base=compat.VERSION_BASE):
        cfg = with_paths(compose("config", words, return_hydra_config=True))
        found = OmegaConf.to_container(cfg.hydra.launcher, resolve=True)
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items()}
