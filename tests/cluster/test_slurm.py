"""A real SLURM of two nodes: what is killed, meets its limit, is preempted or loses its node is gone on with."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from slurm import Slurm
from sweeping import PATIENCE_S, ROOT, Sweep

pytestmark = pytest.mark.cluster
SLURM = ["hydra/launcher=submitit_slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.gone_s=5"]


def host_pid(node: str, pid: int) -> int:
    """The number outside of the process that has this one in the namespace of its node."""
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            numbers = next(line.split()[1:] for line in status.read_text().splitlines() if line.startswith("NSpid:"))
            environment = (status.parent / "environ").read_bytes().split(b"\0")
        except (OSError, StopIteration):
            continue
        if len(numbers) > 1 and int(numbers[-1]) == pid and f"SLURMD_NODENAME={node}".encode() in environment:
            return int(numbers[0])
    raise AssertionError(f"no process {pid} on {node}")


def undisturbed(sweep: Sweep, tmp_path_factory: pytest.TempPathFactory, *words: str) -> Sweep:
    """The same run in one piece, without a cluster."""
    calm = Sweep(tmp_path_factory.mktemp("calm"), sweep.cache)
    (calm.folder / "plugin").symlink_to(sweep.folder / "plugin")
    calm.hold.mkdir()
    calm.let_go()
    assert calm.begin(calm.command(*words)).wait(PATIENCE_S) == 0, calm.said()
    return calm


def same_bits(one: Sweep, other: Sweep) -> bool:
    """Records and adapters."""
    names = sorted(path.name for path in (one.results / "adapters" / "mini").iterdir())
    assert names and names == sorted(path.name for path in (other.results / "adapters" / "mini").iterdir())
    for name in names:
        ours, theirs = (load_file(sweep.results / "adapters" / "mini" / name) for sweep in (one, other))
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    return one.records() == other.records()


def requeued(cluster: Slurm, sweep: Sweep) -> None:
    """Waits until SLURM has the job again, and spares us the two minutes that it would let it wait."""

    def waiting() -> list[str]:
        return cluster.run("squeue", "-h", "--array", "-t", "PENDING", "-n", "karst_bench", "-o", "%i").split()

    cluster.wait_for(waiting, PATIENCE_S, f"requeued job; {sweep.said()}")
    time.sleep(10)  # its node refuses it as long as it may be the job that was just revoked
    for job in waiting():
        cluster.run("scontrol", "update", f"jobid={job}", "starttime=now", check=False)


def test_six_runs_one_of_which_is_killed(cluster: Slurm, sweep: Sweep) -> None:
    """The process that submitted notices the death, accounting being off, and submits the run again, which goes on."""
    submitting = sweep.begin(sweep.command("method=held,bitfit", "seed=0,1,2", *SLURM), cluster.environment)
    os.kill(host_pid(*sweep.held()), signal.SIGKILL)
    sweep.let_go()
    assert submitting.wait(PATIENCE_S) == 0, sweep.said()
    assert len(sweep.records()) == 6 and sorted(sweep.begun()) == [1] * 5 + [2]
    assert "dead: its job ended without a word" in sweep.said() and "it is submitted again" in sweep.said()


def test_at_its_limit_a_run_is_requeued_and_ends_with_the_same_bits(
    cluster: Slurm, sweep: Sweep, tmp_path_factory: pytest.TempPathFactory
) -> None:
    limit = ["hydra.launcher.timeout_min=4", "hydra.launcher.signal_delay_s=60"]
    submitting = sweep.begin(sweep.command("method=held", "seed=0", *SLURM, *limit), cluster.environment)
    calm = undisturbed(sweep, tmp_path_factory, "method=held", "seed=0")
    requeued(cluster, sweep)
    assert submitting.wait(PATIENCE_S) == 0, sweep.said()
    (log,) = (sweep.results / "logs" / "jobs").glob("*/*.out")
    assert "timed-out" in log.read_text() and "Requeued job" in log.read_text()
    assert sweep.begun() == [2] and calm.begun() == [1] and same_bits(sweep, calm)


def test_a_preempted_run_is_requeued_and_ends_with_the_same_bits(
    cluster: Slurm, sweep: Sweep, tmp_path_factory: pytest.TempPathFactory
) -> None:
    submitting = sweep.begin(sweep.command("method=held", "seed=0", *SLURM), cluster.environment)
    sweep.held()
    urgent = subprocess.Popen(["srun", "-p", "urgent", "-N2", "--exclusive", "true"], env=cluster.environment)
    requeued(cluster, sweep)
    assert urgent.wait(PATIENCE_S) == 0 and submitting.wait(PATIENCE_S) == 0, sweep.said()
    calm = undisturbed(sweep, tmp_path_factory, "method=held", "seed=0")
    assert sweep.begun() == [2] and same_bits(sweep, calm)


def test_two_nodes_share_a_sweep_and_one_dies(cluster: Slurm, sweep: Sweep) -> None:
    """Each node walks the whole sweep; no run is done twice, and that of the dead node is taken over when its lease is silent."""
    sweep.lease_s = 10
    words = sweep.command("method=held,bitfit", "seed=0,1,2")
    workers = {node: sweep.begin(["srun", "-N1", "-w", node, *words], cluster.environment) for node in ("n1", "n2")}
    died, _ = sweep.held()
    (lives,) = workers.keys() - {died}
    cluster.kill_node(died)
    sweep.let_go()
    try:
        assert workers[lives].wait(PATIENCE_S) in (0, 3), sweep.said()
        workers[died].kill()
        time.sleep(sweep.lease_s)
        assert sweep.begin(["srun", "-N1", "-w", lives, *words], cluster.environment).wait(PATIENCE_S) == 0, sweep.said()
    finally:
        cluster.start_node(died)
    assert len(sweep.records()) == 6 and sorted(sweep.begun()) == [1] * 5 + [2]


def test_workers_of_the_example_requeue_themselves_at_their_limit(cluster: Slurm, sweep: Sweep) -> None:
    """SIGTERM as --signal=TERM@180 sends it; here are no GPUs to ask for."""
    script = sweep.folder / "workers.sbatch"
    lines = (ROOT / "examples/workers.sbatch").read_text().splitlines(keepends=True)
    script.write_text("".join(line for line in lines if "--gpus" not in line))
    words = sweep.command("method=held,bitfit", "seed=0,1")[4:]
    environment = cluster.environment | {"RUNS_PER_GPU": "2", "PYTHON": sys.executable}
    sweep.begin(["sbatch", "--wait", "--array=0-1", "--cpus-per-task=1", "--parsable", str(script), *words], environment)
    sweep.held()
    for job in cluster.run("squeue", "-h", "--array", "-t", "RUNNING", "-o", "%i").split():
        cluster.run("scancel", "--signal=TERM", job, check=False)
    requeued(cluster, sweep)
    cluster.wait_for(lambda: not cluster.run("squeue", "-h"), PATIENCE_S, "empty queue")
    said = "".join(path.read_text() for path in sweep.folder.glob("karst_bench.*.log"))
    assert len(sweep.records()) == 4, sweep.said() + said
    assert "held on mini/digits (vit_mini, seed 0): goes on after epoch 2 of 5" in said
