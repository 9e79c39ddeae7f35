"""`karst-bench run` and run.py: what the words compose is done, errors become sentences.

One run is composed once, as the cell of a plan is. Several runs, launchers and whatever Hydra's flags ask go through
Hydra's own machinery, which composes twice before a run starts.
"""

import logging
import os
import re
import sys
from collections.abc import Sequence

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from karst_bench import __version__, compat
from karst_bench.cli.console import attach_console
from karst_bench.cli.outcome import BAD_INPUT, asks_for_debug, exit_code
from karst_bench.cli.run_help import help_text
from karst_bench.config import compose as config
from karst_bench.config import sweeps
from karst_bench.config.messages import friendly
from karst_bench.config.option_files import config_dir, options
from karst_bench.config.settings import Settings, resolve
from karst_bench.errors import BusyError, UserError
from karst_bench.records.store import Store
from karst_bench.run import status
from karst_bench.run.lookup import recall

HYDRAS = re.compile(r"[+~]*hydra[./]")
log = logging.getLogger(__name__)


def main(arguments: Sequence[str]) -> int:
    """Runs the command line and returns its exit code: 0 done, 1 a run failed, 2 bad input, 130 stopped."""
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
    overrides = sweeps.expand(words)
    planned = [override for override in overrides if override.lower() != "dry_run=true"]
    if len(planned) < len(overrides):
        print(status.listing(status.sweep_cells(planned)))
        return
    if flags and set(flags) <= {"--help", "-h"}:
        print(help_text([override for override in overrides if not override.startswith("hydra.")]))
        return
    if not flags and not any(HYDRAS.match(override) for override in overrides):
        _interruptible(config.settings_of(overrides))
        return
    with friendly(overrides, config.composed, options):
        failures = _hydra([*overrides, *config.search_path(), *flags])
    if len(failures) > 1:
        log.warning("%d runs failed; the same command tries them again", len(failures))
    for failure in failures:
        raise failure


def _hydra(arguments: list[str]) -> list[Exception]:
    """Runs what the arguments compose; returns the failures of runs, each told when it happened in a sweep."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra hands its errors on instead of printing them
    config.register(ConfigStore.instance())
    failures: list[Exception] = []

    @hydra.main(config_path=str(config_dir()), config_name="config", version_base=compat.VERSION_BASE)
    def task(cfg: DictConfig) -> None:
        attach_console(debug=cfg.debug)  # a launcher's worker process starts without
        try:
            _interruptible(resolve(config.complete(cfg, list(HydraConfig.get().overrides.task))))
        except Exception as error:
            _keep(error, failures)

    sys.argv = [sys.argv[0], *arguments]
    handlers, level = list(logging.root.handlers), logging.root.level
    try:
        task()
    finally:  # --info leaves a handler on standard output
        logging.root.handlers[:] = handlers
        logging.root.setLevel(level)
    return failures


def _keep(error: Exception, failures: list[Exception]) -> None:
    """Notes what a run raised; in a sweep it is told at once, and a run that another process has is only passed over."""
    hydra_config = HydraConfig.get()
    if hydra_config.mode == RunMode.MULTIRUN:
        if isinstance(error, BusyError):
            log.warning("passed over: %s", error)
            return
        log.error("%s", error)
    if "joblib" in hydra_config.runtime.choices["hydra/launcher"]:
        raise error  # a worker process: its exception is what reaches the parent
    failures.append(error)


def _interruptible(settings: Settings) -> None:
    """Does what the settings say. Raises: KeyboardInterrupt where a signal ended it: Hydra would go on to the next run."""
    try:
        _one(settings)
    except UserError:  # nothing heavy is imported to tell a typo
        raise
    except Exception as error:
        from karst_bench.engine.outcome import Interrupted

        if isinstance(error, Interrupted):
            raise KeyboardInterrupt("the same command continues where it was") from error
        raise


def _one(settings: Settings) -> None:
    """A finished run is told before torch is imported."""
    if settings.action == "train":
        if recall(settings, Store(settings.paths.results, settings.suite)) is not None:
            return
        log.info("%s: starting", settings.title)
        from karst_bench.run.pipeline import start

        start(settings)
    else:
        from karst_bench.run.commands import act

        act(settings)
