"""Leases: never two workers on one cell, never a cell nobody can have."""

import errno
import multiprocessing
import os
import signal
import time

import pytest

from karst_bench.records import lease as lease_module
from karst_bench.records.lease import Leases

CELL = "0123456789abcdef"
FORK = multiprocessing.get_context("fork")


def test_one_holder_at_a_time(tmp_path):
    ours, theirs = Leases(tmp_path), Leases(tmp_path)
    with ours.acquire(CELL) as lease:
        assert lease.held() and ours.running() == {CELL: "-"}
        assert theirs.acquire(CELL) is None
        with theirs.acquire("f" * 16) as other:
            assert other.held()
    assert not lease.held() and ours.running() == {}
    assert theirs.acquire(CELL) is not None


def test_nothing_stays_behind(tmp_path):
    with Leases(tmp_path).acquire(CELL):
        pass
    assert list((tmp_path / "leases").iterdir()) == []


def _hold(root, started):
    lease = Leases(root).acquire(CELL)
    started.set()
    time.sleep(60)
    lease.release()


def test_a_killed_worker_is_taken_over_at_once(tmp_path):
    started = FORK.Event()
    worker = FORK.Process(target=_hold, args=(tmp_path, started))
    worker.start()
    assert started.wait(20)
    assert Leases(tmp_path).acquire(CELL) is None
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    with Leases(tmp_path).acquire(CELL) as lease:
        assert lease.held()


def test_another_machine_is_trusted_for_a_lease(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(lease_module, "_machine", lambda: "elsewhere")
        lease = Leases(tmp_path, lease_s=1000).acquire(CELL)
    assert Leases(tmp_path, lease_s=1000).acquire(CELL) is None
    for file in (tmp_path / "leases").iterdir():
        os.utime(file, (time.time() - 2000, time.time() - 2000))
    with Leases(tmp_path, lease_s=1000).acquire(CELL) as taken:
        assert taken.held() and not lease.held()
        lease.release()  # the sleeper wakes: its release must not free our lease
        assert taken.held() and Leases(tmp_path).acquire(CELL) is None


def test_the_heartbeat_keeps_a_lease(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(lease_module, "_machine", lambda: "elsewhere")
        lease = Leases(tmp_path, lease_s=2.0).acquire(CELL)
    for file in (tmp_path / "leases").iterdir():
        os.utime(file, (1, 1))  # as if the lease had almost run out, the next beat not come yet
    deadline = time.monotonic() + 1.9  # a beat that came no sooner than the lease ends would be none
    while min(file.stat().st_mtime for file in (tmp_path / "leases").iterdir()) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert Leases(tmp_path, lease_s=2.0).acquire(CELL) is None
    lease.release()


def _race(root, cells, log, barrier):
    """Lease cells until all are finished, marking entry and exit; overlapping marks would betray two holders."""
    barrier.wait()
    wins = 0
    for cell in cells:
        lease = Leases(root).acquire(cell)
        if lease is None or (root / f"{cell}.done").exists():
            if lease is not None:
                lease.release()
            continue
        handle = os.open(root / f"{cell}.inside", os.O_CREAT | os.O_EXCL)  # raises if someone is inside
        os.close(handle)
        time.sleep(0.002)
        (root / f"{cell}.done").touch()
        (root / f"{cell}.inside").unlink()
        lease.release()
        wins += 1
    log.put(wins)


def test_eight_workers_never_share_and_never_lose_a_cell(tmp_path):
    cells = [f"{number:016x}" for number in range(40)]
    log, barrier = FORK.Queue(), FORK.Barrier(8)
    workers = [FORK.Process(target=_race, args=(tmp_path, cells, log, barrier)) for _ in range(8)]
    for worker in workers:
        worker.start()
    assert sum(log.get(timeout=60) for _ in workers) == len(cells)
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert not list(tmp_path.glob("*.inside"))
    assert list((tmp_path / "leases").iterdir()) == []


@pytest.mark.parametrize("content", ["", "half a", "m 999999999 1 note extra"])
def test_an_unreadable_file_holds_for_a_lease(tmp_path, content):
    folder = tmp_path / "leases"
    folder.mkdir()
    (file := folder / f"{CELL}.00.own").write_text(content)
    quick = Leases(tmp_path, lease_s=1000)
    assert quick.holder(CELL) == file
    os.utime(file, (1, 1))
    assert quick.holder(CELL) is None


def test_a_reused_process_number_is_not_the_old_process(tmp_path):
    """Our own number, alive, but born at another time: whoever wrote this file is gone."""
    file = tmp_path / "leases" / f"{CELL}.00.own"
    file.parent.mkdir()
    file.write_text(f"{lease_module._machine()} {os.getpid()} 1 -\n")
    assert Leases(tmp_path).holder(CELL) is None and not file.exists()


@pytest.mark.parametrize("ahead_s", [3600, -3600])
def test_ages_are_the_file_servers_whatever_this_machines_clock_says(tmp_path, monkeypatch, ahead_s):
    for name, age_s in (("alive", 10), ("dead", 400)):
        file = tmp_path / "leases" / f"{name}.00.own"
        file.parent.mkdir(exist_ok=True)
        file.write_text("elsewhere 1 1 -\n")
        os.utime(file, (time.time() - age_s,) * 2)
    wrong = time.time() + ahead_s
    monkeypatch.setattr(lease_module.time, "time", lambda: wrong)
    leases = Leases(tmp_path, lease_s=300)
    assert leases.holder("alive") and leases.holder("dead") is None


def test_nobody_is_dead_by_this_machines_clock_where_the_disk_is_full(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    file = tmp_path / "leases" / f"{CELL}.00.own"
    file.parent.mkdir()
    file.write_text("elsewhere 1 1 -\n")
    wrong = time.time() + 3600
    monkeypatch.setattr(lease_module.time, "time", lambda: wrong)
    monkeypatch.setattr(lease_module.Path, "touch", full)
    assert Leases(tmp_path, lease_s=300).holder(CELL) == file


@pytest.mark.parametrize(
    ("marks", "age_s", "up_s", "dead"),
    [
        ("{0}.other.{2}", 100, 90, True),  # rebooted since its last beat
        ("{0}.other.{2}", 100, 110, False),  # it beat after this machine's boot: another that calls itself the same
        ("{0}.other.{2}", 50, 40, False),  # less than two beats ago
        ("{0}.{1}.other", 100, 90, True),  # this container began after its last beat
        ("{0}.{1}.other", 100, 110, False),
        ("other.{1}.{2}", 100, 90, False),  # another machine is trusted for a lease
    ],
)
def test_an_owner_of_an_earlier_boot_or_container_of_this_machine_is_dead(tmp_path, monkeypatch, marks, age_s, up_s, dead):
    ours = "machine.boot.container"
    began = up_s if "{1}" not in marks else up_s + 1000  # the boot of a container's machine was long before
    monkeypatch.setattr(lease_module, "_machine", lambda: ours)
    born = {1: str(1000 * os.sysconf("SC_CLK_TCK"))}  # a container's first process, by the clock of the boot
    monkeypatch.setattr(lease_module, "_born", lambda pid: born.get(pid, "7"))
    monkeypatch.setattr(lease_module.Path, "read_text", reader(lease_module.Path.read_text, f"{began} 0.0"))
    file = tmp_path / "leases" / f"{CELL}.00.own"
    file.parent.mkdir()
    file.write_text(f"{marks.format(*ours.split('.'))} {os.getpid()} 7 -\n")
    os.utime(file, (time.time() - age_s,) * 2)
    assert (Leases(tmp_path, lease_s=300).holder(CELL) is None) == dead


def reader(real, uptime):
    return lambda path, *rest, **named: uptime if str(path) == "/proc/uptime" else real(path, *rest, **named)


def test_what_killed_workers_left_is_swept_whatever_its_cell(tmp_path):
    leases, probes = tmp_path / "leases", tmp_path / "runs" / "mini"
    for folder in (leases, probes):
        folder.mkdir(parents=True)
    old = [leases / f".{'f' * 16}.00.try.1.ab.tmp", leases / ".clock.1.2", probes / ".probe.1.ab.tmp",
           probes / "..probe.1.ab.tmp.1.cd.tmp", probes / f".{'e' * 16}.json.1.ab.tmp"]  # fmt: skip
    new = [leases / f".{'e' * 16}.00.own.2.ab.tmp", probes / ".probe.2.ab.tmp"]
    others = [probes / f"{'e' * 16}.json", tmp_path / "adapters" / "mini" / f"{'e' * 16}.safetensors"]
    others[1].parent.mkdir(parents=True)
    for file in (*old, *new, *others):
        file.touch()
    for file in (*old, *others):
        os.utime(file, (1, 1))
    with Leases(tmp_path).acquire(CELL):
        assert not any(file.exists() for file in old) and all(file.exists() for file in (*new, *others))
