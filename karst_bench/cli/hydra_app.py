"""From the command line to one run or a sweep of runs: Hydra composes, this file turns its errors into sentences."""

import logging
import os
import sys
from collections.abc import Sequence

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from karst_bench import compat
from karst_bench.config import compose as config
from karst_bench.config import sweeps
from karst_bench.config.messages import friendly
from karst_bench.config.settings import resolve
from karst_bench.errors import UserError
from karst_bench.records.store import Store
from karst_bench.run import status
from karst_bench.run.lookup import recall

log = logging.getLogger(__name__)
FAILED, BAD_INPUT, STOPPED = 1, 2, 130


def main(arguments: Sequence[str]) -> int:
    """Runs the command line and returns its exit code: 0 done, 1 a run failed, 2 bad input, 130 stopped."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra hands its errors on instead of printing them
    config.register(ConfigStore.instance())
    debug = any(argument.replace(" ", "") in ("debug=true", "debug=True") for argument in arguments)
    flags, given = compat.split_arguments(arguments)
    try:
        overrides = sweeps.expand(given)
        planned = [override for override in overrides if override.lower() != "dry_run=true"]
        if len(planned) < len(overrides):
            print(status.listing(status.cells(planned)))
            return 0
        with friendly(overrides, config.composed, config.options):
            failures = _hydra([*overrides, *config.search_path(), *flags])
        if len(failures) > 1:
            print(f"{len(failures)} runs failed; the same command tries them again", file=sys.stderr)
        for failure in failures:
            raise failure
    except UserError as error:
        return _say(error, BAD_INPUT, debug)
    except KeyboardInterrupt as stopped:
        print("; ".join(["stopped", *map(str, stopped.args)]), file=sys.stderr)
        return STOPPED
    except Exception as error:
        return _say(error, FAILED, debug)
    return 0


def _hydra(arguments: list[str]) -> list[Exception]:
    """Runs what the arguments compose; returns the failures of runs, each told when it happened in a sweep."""
    failures: list[Exception] = []

    @hydra.main(config_path=str(config.config_dir()), config_name="config", version_base="1.3")
    def task(cfg: DictConfig) -> None:
        try:
            _one(cfg)
        except Exception as error:
            from karst_bench.engine.outcome import Interrupted
            from karst_bench.run.pipeline import BusyError

            if isinstance(error, Interrupted):  # Hydra would go on to the next run after an Exception
                raise KeyboardInterrupt("the same command continues where it was") from error
            sweep = HydraConfig.get().mode == RunMode.MULTIRUN
            if sweep:
                print(f"error: {error}" if not isinstance(error, BusyError) else f"passed over: {error}", file=sys.stderr)
            if sweep and isinstance(error, BusyError):
                return
            if "joblib" in HydraConfig.get().runtime.choices["hydra/launcher"]:
                raise  # a worker process: its exception is what reaches the parent
            failures.append(error)

    sys.argv = [sys.argv[0], *arguments]
    task()
    return failures


def _one(cfg: DictConfig) -> None:
    """Does what one composed configuration says; a finished run is told before torch is imported."""
    settings = resolve(config.finish(cfg, list(HydraConfig.get().overrides.task)))
    if settings.action == "train":
        if recall(settings, Store(settings.paths.results, settings.suite)) is not None:
            return
        log.info("%s: starting", settings.title)
    from karst_bench.run.commands import act

    act(settings)


def _say(error: Exception, code: int, debug: bool) -> int:
    if debug:
        raise error
    kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
    print(f"error: {kind}{error}", file=sys.stderr)
    if code == FAILED:
        print("debug=true shows the traceback", file=sys.stderr)
    return code
