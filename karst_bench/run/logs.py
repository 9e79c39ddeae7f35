"""A log file for every run, beside its record: epochs, warnings, how it ended."""

import logging
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = "karst_bench"
FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def log_path(results: Path, suite: str, run_id: str) -> Path:
    """Where the log of that run lies, or would."""
    return results / "logs" / suite / f"{run_id}.log"


def job_logs(results: Path) -> Path:
    """Where what a cluster's jobs say lies, a folder for each job."""
    return results / "logs" / "jobs"


def whereabouts() -> str:
    """On which machine this process is, as which job of which cluster, and with which GPUs; what is not so is left out."""
    array = [os.environ.get(f"SLURM_ARRAY_{part}") for part in ("JOB_ID", "TASK_ID")]
    job = "_".join(part for part in array if part) or os.environ.get("SLURM_JOB_ID")
    again = os.environ.get("SLURM_RESTART_COUNT")
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
    said = [f"{platform.node()}, process {os.getpid()}", f"SLURM job {job}" if job else "",
            f"requeued {again} times" if again else "", f"CUDA_VISIBLE_DEVICES={gpus}" if gpus else ""]  # fmt: skip
    return ", ".join(part for part in said if part)


class _RunFile(logging.FileHandler):
    """The log file of a run; where the disk fills, it ends with one warning, and the run goes on."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the standard library's name
        logger = logging.getLogger(ROOT)
        logger.removeHandler(self)
        logger.warning("the log file %s ends here: %s", self.baseFilename, sys.exc_info()[1])

    def close(self) -> None:
        with suppress(OSError):  # what it could not write is still in its buffer
            super().close()


@contextmanager
def run_log(results: Path, suite: str, run_id: str) -> Iterator[None]:
    """Everything this package logs within also goes to the run's file; a run that goes on adds to it.

    Where the file cannot be written the run goes on without it.
    """
    logger = logging.getLogger(ROOT)
    try:
        path = log_path(results, suite, run_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        handler: logging.Handler = _RunFile(path, encoding="utf-8")
    except OSError as error:
        logger.warning("no log file: %s cannot be written (%s)", results, error.strerror)
        handler = logging.NullHandler()
    handler.setFormatter(logging.Formatter(FORMAT))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.debug("on %s", whereabouts())
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()
