"""Jobs as tasks of a Ray cluster. Which machine has room is for Ray to say, and a task whose process or node died begins again."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from karst_bench.cli.clusters.job import Outcome, RunJob
from karst_bench.errors import UserError


@dataclass(frozen=True)
class Task:
    """A task that was handed over. number: the how-manieth it is."""

    number: int
    ref: Any

    def __str__(self) -> str:
        return str(self.number)


def _work(job: RunJob) -> Outcome:
    return job()


class RayTasks:
    """ray.init and ray.remote with what stands under hydra.launcher.ray."""

    at_once: int | None = None
    left_behind = "Ray ends them with this process, and the same command goes on from their checkpoints"

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        """Raises: UserError without Ray, or where it takes no such argument or does not answer."""
        try:
            import ray
        except ImportError as error:
            raise UserError("hydra/launcher=ray needs Ray: pip install 'karst_bench[ray]'") from error
        self.ray, self.numbers = ray, itertools.count(1)
        said = parameters["ray"]
        try:
            if not ray.is_initialized():
                ray.init(**(said["init"] or {}))
            self.task = ray.remote(**said["remote"])(_work) if said["remote"] else ray.remote(_work)
        except (ConnectionError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"hydra/launcher=ray: {str(error).strip()}") from error

    def submit(self, work: Sequence[RunJob]) -> list[Task]:
        """A task for each."""
        return [Task(next(self.numbers), self.task.remote(job)) for job in work]

    def outcome(self, handle: Task) -> Outcome | None:
        """What the task returned; dead, where Ray gave it up."""
        ready, _ = self.ray.wait([handle.ref], timeout=0, fetch_local=False)
        if not ready:
            return None
        try:
            found: Outcome = self.ray.get(handle.ref)
        except self.ray.exceptions.RayError as error:
            return Outcome("dead", f"{type(error).__name__}: {str(error).strip().splitlines()[0]}")
        return found

    def pause_s(self, handles: int) -> float:
        """Asking costs nothing: Ray tells this process what ended."""
        return 1.0
