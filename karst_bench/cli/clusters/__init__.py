"""A sweep on SLURM or Ray: these give runs to machines; leases, checkpoints and records in the results folder do the rest.

A job is one run. The process that submits waits for outcomes, submits again what died without one, and trains nothing itself.
"""

from collections.abc import Sequence

LAUNCHERS = ("submitit_local", "submitit_slurm", "ray")


def launcher_of(overrides: Sequence[str]) -> str:
    """The value of hydra/launcher=, `basic` without one."""
    return next((word.partition("=")[2] for word in reversed(overrides) if word.startswith("hydra/launcher=")), "basic")


def is_cluster(overrides: Sequence[str]) -> bool:
    """Whether the runs are given to one of these."""
    return launcher_of(overrides) in LAUNCHERS
