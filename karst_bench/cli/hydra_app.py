"""`karst-bench run` and run.py: what the words compose is done, errors become sentences.

One run is composed once, as the cell of a plan is. Several runs, launchers and whatever Hydra's flags ask go through
Hydra's own machinery, which composes twice before a run starts.
"""

import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from karst_bench import __version__, compat, stopping
from karst_bench.cli import plans, workers
from karst_bench.cli.clusters import LAUNCHERS, is_cluster
from karst_bench.cli.console import attach_console
from karst_bench.cli.outcome import BAD_INPUT, asks_for_debug, exit_code
from karst_bench.cli.run_help import help_text
from karst_bench.config import compose as config
from karst_bench.config import sweeps
from karst_bench.config.messages import friendly
from karst_bench.config.option_files import config_dir, options
from karst_bench.config.settings import Settings, resolve
from karst_bench.config.swept_options import check_swept_options, group_words, left_to_runs
from karst_bench.errors import BusyError, let_go
from karst_bench.records.store import Store
from karst_bench.run import status
from karst_bench.run.lookup import recall
from karst_bench.stopping import Stopped

HYDRAS = re.compile(r"[+~]*hydra[./]")
FORCES = re.compile(r"\+{0,2}force=")
log = logging.getLogger(__name__)


def main(arguments: Sequence[str]) -> int:
    """Runs the command line and returns its exit code; cli/outcome.py lists them."""
    if "--version" in arguments:
        print(f"karst_bench {__version__}")
        return 0
    try:
        flags, words = compat.split_arguments(arguments)
        debug = asks_for_debug(words)
        attach_console(debug=debug)
        return exit_code(lambda: _run(flags, words), debug=debug)
    except SystemExit as stopped:  # Hydra's help ends so, and the usage line of its parser
        return stopped.code if isinstance(stopped.code, int) else BAD_INPUT if stopped.code else 0


def _run(flags: list[str], words: list[str]) -> None:
    """One run or all of a sweep; raises the first failure when all of them had their turn."""
    if any(word.lower() == "dry_run=true" for word in words):
        print(plans.listing(words))
        return
    overrides = sweeps.expand(words)
    if flags and set(flags) <= {"--help", "-h"}:
        print(help_text([override for override in overrides if not override.startswith("hydra.")]))
        return
    check_swept_options(overrides)
    with _forced(overrides):
        if is_cluster(overrides) and set(flags) <= {"-m", "--multirun"}:
            from karst_bench.cli.clusters.launching import launch

            launch(overrides)
            return
        if is_cluster(overrides):  # flags that ask Hydra something
            compat.prefer_own_options("hydra/launcher", LAUNCHERS)
        if not flags and not any(HYDRAS.match(override) for override in overrides):
            _one(config.settings_of(overrides))
            return
        chosen, many = group_words(overrides), sweeps.MULTIRUN in overrides or not {"-m", "--multirun"}.isdisjoint(flags)
        with friendly(overrides, lambda _: config.composed(chosen), options):
            words = left_to_runs(overrides) if many else overrides
            failures = _Sweep(_apart(overrides), sweeps.runs_alike(overrides))
            _hydra([*words, *config.search_path(), *flags], failures)
        failures.visit_again(overrides)
        if len(failures.raised) > 1:
            log.warning("%d runs failed; the same command tries them again", len(failures.raised))
        for failure in failures.raised:
            raise failure


def _forced(overrides: Sequence[str]) -> AbstractContextManager[None]:
    """Where a run is forced: the notes by which these words go on when they were stopped."""
    if not any(FORCES.match(override) for override in overrides):
        return nullcontext()
    from karst_bench.records.forced import forced_command

    first = config.settings_of(sweeps.jobs(overrides)[0])
    if not first.force or first.action != "train":
        return nullcontext()
    return forced_command(first.paths.results, [override for override in overrides if not HYDRAS.match(override)])


def _apart(overrides: Sequence[str]) -> bool:
    """Whether a launcher gives the runs to other processes."""
    return any(override.startswith("hydra/launcher=") and override != "hydra/launcher=basic" for override in overrides)


@dataclass
class _Sweep:
    """What did not end well. raised: what runs raised; busy: the words of runs that other processes had; apart: runs are in
    processes of their own, whose news a launcher does not bring. alike: how many runs share the model of one."""

    apart: bool
    alike: Callable[[Sequence[str]], int]
    raised: list[Exception] = field(default_factory=list)
    busy: list[list[str]] = field(default_factory=list)

    def visit_again(self, overrides: Sequence[str]) -> None:
        """Runs what was passed over, as long as other processes let go of some. Raises: BusyError listing what they keep."""
        if self.apart and not self.raised:
            self.busy = [list(cell.overrides) for cell in status.sweep_cells(overrides) if cell.state in ("running", "missing")]
        before = None
        while self.busy and len(self.busy) != before:
            before, waiting, self.busy = len(self.busy), self.busy, []
            for words in waiting:
                self._visit(words)
        if self.busy:
            kept = "\n".join(f"  {' '.join(words)}" for words in self.busy)
            raise BusyError(f"{len(self.busy)} runs are not done, other processes have them; the same command looks again:\n{kept}")

    def _visit(self, words: list[str]) -> None:
        stopping.safe_point()
        try:
            _one(config.settings_of(words), alike=self.alike(words))
        except BusyError:
            self.busy.append(words)
        except Exception as error:
            log.error("%s", error)
            let_go(error)
            self.raised.append(error)


def _hydra(arguments: list[str], failures: _Sweep) -> None:
    """Runs what the arguments compose, and notes what did not end well, each told when it happened in a sweep."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra hands its errors on instead of printing them
    config.register(ConfigStore.instance())

    @hydra.main(config_path=str(config_dir()), config_name="config", version_base=compat.VERSION_BASE)
    def task(cfg: DictConfig) -> None:
        attach_console(debug=cfg.debug)  # a launcher's worker process starts without
        if (worker := workers.this_worker()) is None:
            stopping.keep_listening()
            stopping.safe_point()
            _job(cfg, failures, None)
        else:
            worker.work(lambda: _job(cfg, failures, worker.launch))

    sys.argv = [sys.argv[0], *arguments]
    handlers, level = list(logging.root.handlers), logging.root.level
    try:
        with workers.launching() if failures.apart else nullcontext() as launch:
            task()
            failures.raised += [] if launch is None else launch.failures()
    finally:  # --info leaves a handler on standard output
        logging.root.handlers[:] = handlers
        logging.root.setLevel(level)


def _job(cfg: DictConfig, failures: _Sweep, launch: workers.Launch | None) -> None:
    """One run of what Hydra composed. launch: of the process that launched this one."""
    words = list(HydraConfig.get().overrides.task)
    try:
        _one(resolve(config.complete(cfg, words)), alike=1 if failures.apart or launch else failures.alike(words))
    except Stopped as stopped:
        raise Stopped(stopped.number) from stopped  # without the state: a worker process may hand it on
    except Exception as error:
        _keep(error, words, failures, launch)


def _keep(error: Exception, words: list[str], failures: _Sweep, launch: workers.Launch | None) -> None:
    """Notes what a run raised; in a sweep it is told at once, and a run that another process has is only passed over."""
    hydra_config = HydraConfig.get()
    let_go(error)  # the next run needs the room
    if hydra_config.mode == RunMode.MULTIRUN:
        if isinstance(error, BusyError):
            log.info("passed over for now: %s", error)
            failures.busy.append(words)
            return
        log.error("%s", error)
    if launch is not None:
        launch.failed(error)
    elif hydra_config.runtime.choices["hydra/launcher"] != "basic":
        raise error  # in a process apart: what it raises is what reaches the launcher
    else:
        failures.raised.append(error)


def _one(settings: Settings, *, alike: int = 1) -> None:
    """Does what the settings say; a finished run is told before torch is imported. alike: runs of this process with its model."""
    if settings.action == "train":
        if recall(settings, Store(settings.paths.results, settings.suite)) is not None:
            return
        log.info("%s: starting", settings.title)
        from karst_bench.run.pipeline import start

        start(settings, alike=alike)
    else:
        from karst_bench.run.commands import act

        act(settings)
