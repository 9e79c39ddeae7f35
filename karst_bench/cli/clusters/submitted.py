"""Jobs by submitit: on SLURM as one array, or as processes of this machine. Requeueing at a time limit is submitit's."""

import logging
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from karst_bench.cli.clusters.job import Outcome, RunJob
from karst_bench.errors import UserError

NOT_SBATCH = ("submitit_folder", "max_num_timeout", "gone_s", "_target_")
SHARED = ("name", "timeout_min", "nodes", "tasks_per_node", "cpus_per_task", "mem_gb", "gpus_per_node", "stderr_to_stdout")
LARGEST_ARRAY = 1000  # SLURM's MaxArraySize is 1001 unless it was changed
LOOK_S = 5.0  # between two questions to the queue
log = logging.getLogger(__name__)


class Handle:
    """A submitted job. gone_at: when it was first seen to have ended without an outcome."""

    def __init__(self, job: Any) -> None:
        self.job = job
        self.gone_at: float | None = None

    def __str__(self) -> str:
        return str(self.job.job_id)


class Submitted:
    """submitit's executor with what stands under hydra.launcher. kind: local or slurm."""

    left_behind = "they go on, and the same command finds what they did"

    def __init__(self, kind: str, parameters: Mapping[str, Any]) -> None:
        """Raises: UserError where there is no SLURM here, or it has no such parameter."""
        import submitit

        self.gone_s = float(parameters["gone_s"])
        self.at_once = max(1, int(parameters["array_parallelism"])) if kind == "local" else None
        if kind == "slurm" and not shutil.which("sbatch"):
            raise UserError("hydra/launcher=submitit_slurm needs sbatch, squeue and srun, which are not on this machine's PATH; "
                            "submit from the cluster's login node, or use hydra/launcher=submitit_local")  # fmt: skip
        first = {f"{kind}_max_num_timeout": parameters["max_num_timeout"]}
        named = {key if key in SHARED else f"{kind}_{key}": value for key, value in parameters.items()
                 if key not in NOT_SBATCH and value is not None and (kind == "slurm" or key in SHARED)}  # fmt: skip
        try:
            self.executor = submitit.AutoExecutor(str(parameters["submitit_folder"]), cluster=kind, **first)
            self.executor.update_parameters(**named)
        except (ValueError, TypeError, NameError, AssertionError, RuntimeError, OSError) as error:
            raise UserError(f"hydra/launcher=submitit_{kind}: {error}") from error
        self._queue = _Queue() if kind == "slurm" else None

    def submit(self, work: Sequence[RunJob]) -> list[Handle]:
        """Arrays of jobs. Raises: UserError with what sbatch said."""
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        handles: list[Handle] = []
        for start in range(0, len(work), LARGEST_ARRAY):
            try:
                with self.executor.batch():
                    jobs = [self.executor.submit(job) for job in work[start : start + LARGEST_ARRAY]]
            except (FailedJobError, FailedSubmissionError, OSError) as error:
                raise UserError(f"the jobs could not be submitted: {str(error).strip()}") from error
            handles += [Handle(job) for job in jobs]
        return handles

    def outcome(self, handle: Handle) -> Outcome | None:
        """What the job left; where it ended and left nothing for gone_s, that it is dead."""
        if handle.job.paths.result_pickle.exists():
            return self._said(handle)
        if not self._has_ended(handle):
            handle.gone_at = None
            return None
        handle.gone_at = handle.gone_at or time.monotonic()
        if self._queue is not None and self._queue.state(str(handle)) == "CANCELLED":
            return Outcome("cancelled", "cancelled by scancel")
        if time.monotonic() - handle.gone_at < self.gone_s:
            return None
        return Outcome("dead", f"its job ended without a word; the end of its log {handle.job.paths.stdout}: {_end_of(handle)}")

    def pause_s(self, handles: int) -> float:
        """A look at each costs the file server something."""
        return min(30.0, 1 + handles / 20)

    def _said(self, handle: Handle) -> Outcome:
        from submitit.core.utils import FailedJobError, UncompletedJobError

        try:
            found = handle.job.result()
        except UncompletedJobError as error:
            return Outcome("dead", str(error).strip().splitlines()[-1])
        except FailedJobError as error:
            said = [line for line in str(error).splitlines() if line and not line.startswith(("-", "You can", " ", "or at"))]
            kind = "limit" if "timed-out too many times" in str(error) else "failed"
            return Outcome(kind, f"{said[-1]}; its log: {handle.job.paths.stdout}")
        assert isinstance(found, Outcome)
        return found

    def _has_ended(self, handle: Handle) -> bool:
        if self._queue is None:
            return bool(handle.job.done())
        waiting = self._queue.ids()
        return waiting is not None and str(handle) not in waiting


class _Queue:
    """What SLURM's controller knows: it answers where accounting is off, and sacct does not."""

    def __init__(self) -> None:
        self._ids: set[str] | None = None
        self._asked_at = float("-inf")
        self._warned = False

    def ids(self) -> set[str] | None:
        """The jobs and array tasks that wait or run; None where the controller does not answer."""
        if time.monotonic() - self._asked_at > LOOK_S:
            said = _ask("squeue", "--me", "--noheader", "--array", "--format=%i")
            if said is None and not self._warned:
                log.warning("squeue does not answer; the jobs are waited for")
            self._warned = said is None
            self._ids = None if said is None else set(said.split())
            self._asked_at = time.monotonic()
        return self._ids

    def state(self, job: str) -> str:
        """The state of a job that has ended, as long as the controller remembers it (MinJobAge, 300 s), else nothing."""
        said = _ask("scontrol", "--oneliner", "show", "job", job) or ""
        return next((word.partition("=")[2] for word in said.split() if word.startswith("JobState=")), "")


def _ask(*command: str) -> str | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None


def _end_of(handle: Handle) -> str:
    lines = list(_lines(handle.job.paths.stdout))
    return lines[-1] if lines else "it is empty"


def _lines(path: Path) -> Iterator[str]:
    try:
        yield from (line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip())
    except OSError:
        return
