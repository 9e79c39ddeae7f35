"""What is written is whole or absent, and nothing is left beside it."""

import errno
import os
import stat
import threading
import time
from pathlib import Path

import pytest

from karst_bench import files
from karst_bench.errors import UserError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_stream_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    with files.stream(path) as file:
        file.write(b"half")
        assert not path.exists()
        file.write(b" whole")
    assert path.read_bytes() == b"half whole" and names(path.parent) == ["file"]


def test_a_stream_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")
    with pytest.raises(RuntimeError), files.stream(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"before" and names(tmp_path) == ["file"]


def test_a_folder_appears_when_it_is_filled(tmp_path: Path) -> None:
    path = tmp_path / "entry"
    with files.folder(path) as fresh:
        (fresh / "a").write_text("1")
        assert not path.exists()
    assert (path / "a").read_text() == "1" and names(tmp_path) == ["entry"]
    with files.folder(path) as late:  # another was faster
        (late / "a").write_text("2")
    assert (path / "a").read_text() == "1" and names(tmp_path) == ["entry"]
    with pytest.raises(RuntimeError), files.folder(tmp_path / "other"):
        raise RuntimeError
    assert names(tmp_path) == ["entry"]


def test_folders_of_killed_writers_go_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    dead, alive = tmp_path / ".entry.999999999.00ff.tmp", tmp_path / f".entry.{os.getpid()}.00ff.tmp"
    for left in (dead, alive):
        left.mkdir()
    with files.scratch(tmp_path / "entry") as scratch:
        assert scratch.is_dir() and not dead.exists() and alive.is_dir()
    assert not scratch.exists()


def test_without_hard_links_what_is_written_once_is_whole_on_disk_and_nothing_beside_it(tmp_path: Path, monkeypatch) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    synced: list[bool] = []
    real = os.fsync
    monkeypatch.setattr(os, "link", no_links)
    monkeypatch.setattr(os, "fsync", lambda handle: (synced.append(stat.S_ISREG(os.fstat(handle).st_mode)), real(handle)))
    assert files.write(tmp_path / "record", b"1", once=True) and not files.write(tmp_path / "record", b"2", once=True)
    assert (tmp_path / "record").read_bytes() == b"1" and names(tmp_path) == ["record"]
    assert sum(synced) == 3, "both of what was written, and the copy"
    monkeypatch.setattr(Path, "replace", no_links)
    with pytest.raises(UserError):
        files.write(tmp_path / "other", b"1", once=True)
    assert names(tmp_path) == ["record"]


def test_a_refused_write_names_the_key_that_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "write", full)
    with pytest.raises(UserError, match=r"No space left.*free some space there.*paths\.weights="):
        files.write(tmp_path / "sums.json", b"{}", setting="paths.weights")
    assert names(tmp_path) == []


def test_the_hash_of_a_file_is_the_standards(tmp_path: Path) -> None:
    """FIPS 180-2, appendix B.1: the message abc."""
    (tmp_path / "abc").write_bytes(b"abc")
    assert files.sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_lock_makes_others_wait(tmp_path: Path) -> None:
    """Each holder opens the lock's file anew, as another process would."""
    times: list[float] = []

    def hold() -> None:
        with files.locked(tmp_path / "lock"):
            times.append(time.monotonic())
            time.sleep(0.2)

    holders = [threading.Thread(target=hold) for _ in range(2)]
    for holder in holders:
        holder.start()
    for holder in holders:
        holder.join()
    assert abs(times[1] - times[0]) > 0.15
