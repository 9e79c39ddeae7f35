"""Leases: of all workers on one results folder, at most one runs a cell, and a dead one's cell is taken over.

Each contender creates a file of its own, `<id>.<token>.try`, and then looks for others; whoever finds nobody else adds
`<id>.<token>.own` and holds the cell until it removes both. Of two that contend at once at least one sees the other and
steps back, so two never hold. Names are never used twice, so removing a dead worker's file can hit no living one:
the flaw of lock files with one name. Needs nothing of the folder but exclusive creation (no flock), so NFS will do.

A lease is dead when its process is gone (same machine, boot and container), when its machine or container was started anew
since its last beat, or when it has not beaten for `lease_s` (other machines). Ages compare two times of the file server,
never two machines' clocks.
"""

import errno
import hashlib
import os
import platform
import random
import secrets
import threading
import time
from contextlib import suppress
from pathlib import Path

from karst_bench import files
from karst_bench.errors import LostLeaseError

LEASE_S = 300.0
BEATS_PER_LEASE = 10
PATIENCE_S = 20.0  # how long contenders step back from each other before one asks again later


def _machine() -> str:
    """Three marks, of this machine, of its boot and of this container: in all three, process numbers mean something."""
    machine, boot, container = platform.node(), "", ""
    with suppress(OSError):
        machine += Path("/etc/machine-id").read_text().strip()
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    with suppress(OSError):
        container = str(Path("/proc/self/ns/pid").readlink())
    return ".".join(hashlib.sha256(part.encode()).hexdigest()[:12] for part in (machine, boot, container))


def _up_s(machine: str) -> float | None:
    """Seconds since the boot or the container in whose earlier life an owner of that mark ran; None for other machines."""
    theirs, ours = machine.split("."), _machine().split(".")
    if len(theirs) != len(ours) or theirs[0] != ours[0] or theirs == ours:
        return None
    try:
        up_s = float(Path("/proc/uptime").read_text().split()[0])
        if theirs[1] == ours[1]:  # the same boot: this container's first process began with it
            up_s -= float(_born(1)) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError):
        return None
    return up_s


def _born(pid: int) -> str:
    """The start time of a process in clock ticks, so that a reused number is not taken for the old process."""
    try:
        # Field 22 of /proc/<pid>/stat, counted after the command name, which may hold spaces and brackets.
        text = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return "gone" if Path("/proc/self/stat").exists() else "unknown"
    return "gone" if text[0] in "ZX" else text[19]


class Lease:
    """A held cell; a context manager. `held()` turns False if it was lost (this machine slept past the lease)."""

    def __init__(self, files: tuple[Path, Path], lease_s: float) -> None:
        self._files = files
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, args=(lease_s / BEATS_PER_LEASE,), daemon=True)
        self._thread.start()

    def _beat(self, pause_s: float) -> None:
        while not self._stop.wait(pause_s):
            for file in self._files:
                with suppress(OSError):
                    os.utime(file)

    def held(self) -> bool:
        """Whether the cell is still ours; ask before writing the record."""
        return all(file.exists() for file in self._files)

    def release(self) -> None:
        """Give the cell back; doing so twice is harmless."""
        self._stop.set()
        self._thread.join()
        for file in reversed(self._files):
            with suppress(OSError):
                file.unlink()

    def __enter__(self) -> "Lease":
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()


def refuse_if_lost(lease: Lease | None, path: Path) -> None:
    """Asked before `path` is written. Raises: LostLeaseError; DiskError where the file server does not answer."""
    try:
        held = lease is None or lease.held()
    except OSError as error:
        raise files.refusal(path, error) from error
    if not held:
        raise LostLeaseError(
            f"the lease of this cell was lost, as if this machine had slept, and another worker has it; {path} is not written"
        )


class Leases:
    """The leases of one results folder: small files in its folder leases/."""

    def __init__(self, root: Path | str, lease_s: float = LEASE_S) -> None:
        """`root` is paths.results; `lease_s` is how long another machine's silence is tolerated, in seconds."""
        self.folder = Path(root) / "leases"
        self.lease_s = lease_s

    def acquire(self, run_id: str, note: str = "-") -> Lease | None:
        """The lease of that cell, or None while another living worker holds it. Waits only for simultaneous askers.

        `note` is one word that `running` gives to others, such as the key of the cell. Ask for the record again after
        acquiring: the last holder may have finished a moment ago. Raises: UserError where the folder is not writable.
        """
        deadline = time.monotonic() + PATIENCE_S
        pause_s = 0.005
        while True:
            if self.holder(run_id) is not None:
                return None
            lease = self._contend(run_id, note)
            if lease is not None or time.monotonic() > deadline:
                return lease
            time.sleep(random.uniform(0, pause_s))
            pause_s = min(2 * pause_s, 0.5)

    def wait(self, run_id: str) -> Lease:
        """The lease, however long another holds it: a lock for moments, not for runs. Raises: as `acquire`."""
        while (lease := self.acquire(run_id)) is None:
            time.sleep(random.uniform(0.01, 0.05))
        return lease

    def _contend(self, run_id: str, note: str) -> Lease | None:
        token = secrets.token_hex(8)
        content = f"{_machine()} {os.getpid()} {_born(os.getpid())} {note}\n".encode()
        trying, owning = (self.folder / f"{run_id}.{token}.{kind}" for kind in ("try", "own"))
        files.write(trying, content, once=True)
        if any(self._alive(file) for file in self._files(run_id) if token not in file.name):
            trying.unlink(missing_ok=True)
            return None
        try:
            files.write(owning, content, once=True)
        except BaseException:
            trying.unlink(missing_ok=True)  # of a living process, for which others would wait
            raise
        self._sweep()
        return Lease((trying, owning), self.lease_s)

    def _sweep(self) -> None:
        """Remove what workers that were killed while they asked or wrote left, of any cell, when nobody touched it for long."""
        root = self.folder.parent
        for leftover in (*self.folder.glob(".*"), *root.glob("*/.*.tmp"), *root.glob("*/*/.*.tmp"), *root.glob("*/*/*/.*.tmp")):
            if leftover.is_file() and self._silent(leftover):
                with suppress(OSError):
                    leftover.unlink()

    def _files(self, run_id: str, kind: str = "*") -> list[Path]:
        return sorted(self.folder.glob(f"{run_id}.*.{kind}"))

    def holder(self, run_id: str) -> Path | None:
        """The file of the living worker that runs this cell, or None."""
        return next((file for file in self._files(run_id, "own") if self._alive(file)), None)

    def running(self) -> dict[str, str]:
        """The ids that living workers hold at this moment, and their notes."""
        held = {}
        for file in self._files("*", "own"):
            with suppress(OSError, IndexError, ValueError):
                if self._alive(file):
                    held[file.name.split(".")[0]] = file.read_text().split()[3]
        return held

    def last_beat(self, note: str) -> float | None:
        """When, by the file server's clock, the living worker of that note was last heard of; None where there is none."""
        for run_id, said in self.running().items():
            if said == note and (file := self.holder(run_id)) is not None:
                with suppress(OSError):
                    return file.stat().st_mtime
        return None

    def _alive(self, file: Path) -> bool:
        """Whether that lease's worker lives; the file of a dead one is removed."""
        try:
            machine, number, born, _ = file.read_text().split()
            pid = int(number)
        except FileNotFoundError:
            return False
        except ValueError:
            machine, pid, born = "unreadable", 0, "unknown"  # a lease of patience, as for another machine
        if machine == _machine() and born != "unknown":
            alive = _born(pid) == born
        else:
            alive = not self._silent(file) and not self._of_an_earlier_life(machine, file)
        if alive:
            return True
        with suppress(OSError):
            file.unlink()
        return False

    def _of_an_earlier_life(self, machine: str, file: Path) -> bool:
        """Whether this machine or container began after that file's last beat.

        Two beats must be missing: another one that calls itself the same, as copies of one image do, beats.
        """
        up_s = _up_s(machine)
        return up_s is not None and self._silent(file, max(up_s, 2 * self.lease_s / BEATS_PER_LEASE))

    def _silent(self, file: Path, since_s: float | None = None) -> bool:
        """Whether that file was not touched for so long, by default for a lease, or is gone; False where nobody can tell."""
        try:
            return self._server_time() - file.stat().st_mtime > (self.lease_s if since_s is None else since_s)
        except FileNotFoundError:
            return True
        except OSError:
            return False

    def _server_time(self) -> float:
        """The clock of the file system, by touching a file there; this machine's own for who may only look.

        Raises: OSError where the disk is full or the server does not answer.
        """
        mark = self.folder / f".clock.{secrets.token_hex(8)}"
        try:
            mark.touch()
            os.utime(mark)
            return mark.stat().st_mtime
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
                return time.time()
            raise
        finally:
            with suppress(OSError):
                mark.unlink()
