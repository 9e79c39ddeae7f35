"""submitit without a scheduler: processes of this machine, told of their time limit as SLURM tells them."""

import os
import signal

import pytest
from sweeping import PATIENCE_S, Sweep

LOCAL = ["hydra/launcher=submitit_local", "hydra.launcher.array_parallelism=2", "hydra.launcher.gone_s=1"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGKILL])
def test_a_run_at_its_limit_is_requeued_and_a_dead_one_begun_again(sweep: Sweep, number: signal.Signals) -> None:
    submitting = sweep.begin(sweep.command("method=held,bitfit", "seed=0", *LOCAL))
    _, pid = sweep.held()
    os.kill(pid, number)
    sweep.let_go()
    assert submitting.wait(PATIENCE_S) == 0, sweep.said()
    assert len(sweep.records()) == 2 and sorted(sweep.begun()) == [1, 2]
    assert ("dead: its job ended" in sweep.said()) == (number == signal.SIGKILL)
