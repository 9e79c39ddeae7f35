"""`karst-bench tune`: one study, its workers on this machine, and the table of what it found."""

import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from karst_bench.config.words import key_of

if TYPE_CHECKING:
    from karst_bench.run.tuning import Worker

log = logging.getLogger(__name__)


def tune(words: Sequence[str], *, trials: int | None, workers: int, table: Path | None, join: bool, write: bool = False) -> int:
    """Runs a study to its number of trials and writes what it found; join: works on it and writes nothing; write: writes what
    the trials found that there are, and runs none.

    Raises: UserError for bad input; Stopped.
    """
    from karst_bench.run.tuning import Worker, search, tuned_table

    words = _with_threads(words, workers)
    found = search(words)
    size = found.budget(trials)
    worker = Worker(found, size)
    if write:
        return _write(worker, table or tuned_table(found))
    helpers = [start_helper(words, size) for _ in range(workers - 1)]
    try:
        worker.work()
        failed = [helper.pid for helper in helpers if helper.wait() != 0]
    except KeyboardInterrupt:  # a wish to stop is one: the helpers are told too, and waited for
        for helper in helpers:
            helper.terminate()
        for helper in helpers:
            helper.wait()
        raise
    if failed:
        log.error("%d of %d workers failed; the same command goes on where they stopped", len(failed), workers)
        return 1
    if join:
        return 0
    return _write(worker, table or tuned_table(found))


def _write(worker: "Worker", table: Path) -> int:
    from karst_bench.run.tuning import write_tuned

    result = write_tuned(worker, table)
    default = result["default_val_top1_pct"]
    beside = f" (default {default:.2f} %)" if default is not None else ""
    print(f"best of {result['trials']}: val top-1 {result['val_top1_pct']:.2f} %{beside}, {result['values']}")
    print(f"written to {table}; use it with tuned=ours")
    return 0


def _with_threads(words: Sequence[str], workers: int) -> list[str]:
    """Several workers have a share of the cores each, this one too, where nobody says otherwise."""
    if workers < 2 or "OMP_NUM_THREADS" in os.environ or any(key_of(word) == "threads" for word in words):
        return list(words)
    return [*words, f"threads={max(1, (os.cpu_count() or 1) // workers)}"]


def start_helper(words: Sequence[str], trials: int) -> "subprocess.Popen[bytes]":
    """Another worker on the same study."""
    return subprocess.Popen([sys.executable, "-m", "karst_bench", "tune", *words, f"trials={trials}", "--join"])
