"""A SLURM of two nodes on this machine, for a test: everything in one folder, nothing in /etc, ended by process id.

Each slurmd lives in UTS and process namespaces of its own, so that a run's lease takes the nodes for different machines, as they
would be; a node dies with all that runs on it when its first process is killed.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

NEEDED = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "unshare")
NODES = ("n1", "n2")
CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
SlurmctldPort={port}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
SlurmdTimeout={timeout}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
KillWait=20
SchedulerParameters=bf_interval=1,sched_interval=2,batch_sched_delay=1
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={port1} CPUs=2 RealMemory=4000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={port2} CPUs=2 RealMemory=4000
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes=n1,n2 MaxTime=INFINITE State=UP PriorityTier=9 PreemptMode=OFF
"""


def why_not() -> str | None:
    """Why there can be no SLURM here; None where there can."""
    if os.geteuid() != 0:
        return "setting up SLURM takes root"
    if absent := [name for name in NEEDED if shutil.which(name) is None]:
        return f"{', '.join(absent)} not installed (Debian: apt-get install --no-install-recommends slurm-wlm munge)"
    allowed = subprocess.run(["unshare", "--uts", "--pid", "--fork", "--mount-proc", "true"], capture_output=True)
    return None if allowed.returncode == 0 else "no namespaces of one's own are permitted here"


class Slurm:
    """The running cluster. environment: with which its commands find it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def run(self, *command: str, check: bool = True) -> str:
        """What a SLURM command says."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60)
        assert not check or done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout.strip()

    def start(self) -> None:
        """munged, the controller, the nodes; returns when both are idle."""
        for name in ("munge", "state", *(f"spool.{node}" for node in NODES)):
            (self.folder / name).mkdir(mode=0o755)
        self.folder.chmod(0o755)
        munge = self.folder / "munge"
        (munge / "key").touch(mode=0o600)
        (munge / "key").write_bytes(secrets.token_bytes(1024))
        names = ("key-file", "socket", "pid-file", "log-file", "seed-file")
        files = [f"--{name}={munge / name.removesuffix('-file')}" for name in names]
        self._begin("munged", "munged", "--foreground", "--force", *files)
        conf = CONF.format(folder=self.folder, host=socket.gethostname(), timeout=20, **_ports())
        (self.folder / "slurm.conf").write_text(conf)
        self.wait_for(lambda: (munge / "socket").exists(), 30, "munged's socket")
        self._begin("slurmctld", "slurmctld", "-D")
        for node in NODES:
            self.start_node(node)
        self.wait_for(lambda: self.idle() == set(NODES), 60, "two idle nodes")

    def start_node(self, node: str) -> None:
        """slurmd as the only one of its namespaces."""
        inside = f"hostname {node}; exec slurmd -D -N {node}"
        self._begin(node, "unshare", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", inside)

    def kill_node(self, node: str) -> None:
        """As if its power failed: all its processes are gone."""
        process = self.processes.pop(node)
        process.kill()
        process.wait()

    def idle(self) -> set[str]:
        """The nodes that have nothing to do."""
        return set(self.run("sinfo", "-h", "-N", "-t", "idle", "-o", "%N", check=False).split())

    def wait_for(self, what: object, seconds: float, name: str) -> None:
        """Raises: AssertionError where `what()` stays false for so long."""
        until = time.monotonic() + seconds
        while not what():  # type: ignore[operator]
            assert time.monotonic() < until, f"no {name} after {seconds} s: {self.logs()}"
            time.sleep(0.3)

    def logs(self) -> str:
        """The ends of the logs."""
        return "\n".join(f"{path.name}: {path.read_text(errors='replace')[-1500:]}" for path in sorted(self.folder.glob("*.log")))

    def stop(self) -> None:
        """Ends every process that was begun here, the nodes first."""
        with suppress(OSError, subprocess.SubprocessError):
            subprocess.run(["scancel", "--user=root"], env=self.environment, capture_output=True, timeout=20)
        for process in reversed(list(self.processes.values())):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _begin(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.out.log").open("ab") as out:
            self.processes[name] = subprocess.Popen(command, env=self.environment, stdout=out, stderr=out)


@contextmanager
def slurm(folder: Path) -> Iterator[Slurm]:
    """A cluster that is gone afterwards."""
    cluster = Slurm(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def _ports() -> dict[str, int]:
    sockets = [socket.socket() for _ in range(3)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return dict(zip(("port", "port1", "port2"), ports, strict=True))
