"""Files: those that come with the package, and those that are whole or absent (write beside, flush, publish in one step)."""

import fcntl
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO

from karst_bench.errors import DiskError


@cache
def packaged(name: str) -> Path:
    """A folder that comes with the suite (conf, results/paper): inside the installed package, or at a checkout's root."""
    package = Path(__file__).resolve().parent
    return package / name if (package / name).is_dir() else package.parent / name


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal. Raises: OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stamp(paths: Iterable[Path]) -> str:
    """A hash over name, size and time of files, without reading them; a missing one counts as such."""
    found = hashlib.sha256()
    for path in paths:
        try:
            state = os.stat(path)  # noqa: PTH116 (a third of the cost of Path.stat, and there are tens of thousands)
            found.update(f"{path}|{state.st_size}|{state.st_mtime_ns}\n".encode(errors="surrogateescape"))
        except (OSError, ValueError):
            found.update(f"{path}|missing\n".encode(errors="surrogateescape"))
    return found.hexdigest()


def tree_stamp(folders: Iterable[Path]) -> str:
    """A hash over every file below folders, without reading them: name, size, times and number on this disk."""
    found = hashlib.sha256()
    for folder in folders:
        for at, _, names in os.walk(folder):
            for name in sorted(names):
                with suppress(OSError):  # gone in between
                    state = os.stat(f"{at}/{name}")  # noqa: PTH116 (as above)
                    facts = f"{at}/{name}|{state.st_size}|{state.st_mtime_ns}|{state.st_ctime_ns}|{state.st_ino}\n"
                    found.update(facts.encode(errors="surrogateescape"))
    return found.hexdigest()


def refusal(path: Path, error: OSError, size: int = 0, *, setting: str = "paths.results") -> DiskError:
    """The one paragraph for a disk that is full, read-only or not ours. setting: the key that names another folder."""
    need = f" ({size} bytes to write{_free(path)})" if size else ""
    remedy = "free some space there" if error.errno in (28, 122) else "make that folder writable"
    return DiskError(f"cannot write {path}: {error.strerror}{need}; {remedy} or choose another with {setting}=")


def _free(path: Path) -> str:
    with suppress(OSError):
        return f", {shutil.disk_usage(path.parent).free} free"
    return ""


def _write_all(path: Path, data: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(handle, view) :]
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` outlast a power cut, where the file system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def link_once(source: Path, target: Path) -> bool:
    """Give `source` the second name `target`; False when that name is taken. Atomic, on network folders too."""
    try:
        os.link(source, target)
    except FileExistsError:
        # A network server may have made the link and lost its reply; then the file carries two names already.
        with suppress(OSError):
            return target.stat().st_ino == source.stat().st_ino and source.stat().st_nlink == 2
        return False
    except OSError:
        if target.exists():
            return False
        _copy_once(source, target)
    return True


def _copy_once(source: Path, target: Path) -> None:
    """For file systems without hard links: the lease of the cell, not the link, then keeps two writers apart."""
    copy = _beside(target)
    try:
        _write_all(copy, source.read_bytes())
        copy.replace(target)
    finally:
        with suppress(OSError):
            copy.unlink()


def write(path: Path, data: bytes, *, once: bool = False, setting: str = "paths.results") -> bool:
    """Write `data` to `path` whole or not at all; with `once`, False (and nothing changed) where `path` exists.

    Raises: DiskError when the disk is full or the folder not writable (`setting` is the key that names another one); no
    partial file stays behind.
    """
    temporary = _beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_all(temporary, data)
        if once:
            published = link_once(temporary, path)
        else:
            temporary.replace(path)
            published = True
        sync_folder(path.parent)
        return published
    except OSError as error:
        raise refusal(path, error, len(data), setting=setting) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def stream(path: Path) -> Iterator[BinaryIO]:
    """A file to write into, which becomes `path` when the block ends well and vanishes when it does not.

    For what is too large to hold as bytes. Raises: OSError as it comes, so that a caller may do without the file.
    """
    temporary = _beside(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def folder(path: Path) -> Iterator[Path]:
    """An empty folder to fill, which becomes `path` when the block ends well and vanishes when it does not.

    Where `path` is there by then, it stays as it is: another process was faster. What killed writers of `path` left is
    removed first. Raises: OSError as it comes.
    """
    with scratch(path) as temporary:
        yield temporary
        try:
            temporary.rename(path)
        except OSError:
            if not path.is_dir():
                raise
        sync_folder(path.parent)


@contextmanager
def scratch(path: Path) -> Iterator[Path]:
    """An empty folder beside `path`, on the same file system, that is gone after the block. Raises: OSError."""
    _clear_dead(path)
    temporary = _beside(path)
    temporary.mkdir(parents=True)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """In one step: whoever comes to a folder that is being removed finds none. What cannot be removed stays."""
    with suppress(OSError):
        path.rename(_beside(path))
    for left in path.parent.glob(f".{path.name}.*.tmp"):  # those of killed processes too
        shutil.rmtree(left, ignore_errors=True)


def _beside(path: Path) -> Path:
    """A name for what becomes `path`: hidden, in the same folder, with the process that writes it."""
    return path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")


def _clear_dead(path: Path) -> None:
    """Remove the folders that killed writers of `path` left; that of a living process stays."""
    for left in path.parent.glob(f".{path.name}.*.tmp"):
        pid = left.name.split(".")[-3]
        if not (pid.isdigit() and Path(f"/proc/{pid}").exists()):
            shutil.rmtree(left, ignore_errors=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold `path` exclusively, waiting for whoever holds it; the file stays, so that all wait for the same one.

    The lock dies with its holder. File systems without locks go on unlocked: whoever writes under the lock also
    publishes in one step, so two writers only waste time.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def clear_temporaries(folder: Path, name: str) -> None:
    """Remove what a killed writer of `name` left in `folder`; only whoever holds its lease may call this."""
    if folder.is_dir():
        for path in folder.glob(f".{name}*.tmp*"):
            with suppress(OSError):
                path.unlink()


def utf8(name: str) -> str:
    """The name of a file whose bytes may be no UTF-8, as text that a record can hold: itself where they are."""
    return name.encode(errors="backslashreplace").decode()
