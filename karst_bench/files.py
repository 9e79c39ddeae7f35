"""Files: those that come with the package, and those that are whole or absent (write beside, flush, publish in one step)."""

import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

from karst_bench.errors import UserError


def packaged(name: str) -> Path:
    """A folder that comes with the suite (conf, results/paper): inside the installed package, or at a checkout's root."""
    package = Path(__file__).resolve().parent
    return package / name if (package / name).is_dir() else package.parent / name


def refusal(path: Path, error: OSError, size: int = 0) -> UserError:
    """The one paragraph for a disk that is full, read-only or not ours."""
    need = f" ({size} bytes to write{_free(path)})" if size else ""
    remedy = "free some space there" if error.errno in (28, 122) else "make that folder writable"
    return UserError(f"cannot write {path}: {error.strerror}{need}; {remedy} or choose another with paths.results=")


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
    """For file systems without hard links: the claim on the cell, not the link, then keeps two writers apart."""
    copy = source.with_name(source.name + ".copy")
    shutil.copyfile(source, copy)
    copy.replace(target)


def write(path: Path, data: bytes, *, once: bool) -> bool:
    """Write `data` to `path` whole or not at all; with `once`, False (and nothing changed) where `path` exists.

    Raises UserError when the disk is full or the folder not writable; no partial file stays behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
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
        raise refusal(path, error, len(data)) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def clear_temporaries(folder: Path, name: str) -> None:
    """Remove what a killed writer of `name` left in `folder`; only whoever holds the claim on it may call this."""
    if folder.is_dir():
        for path in folder.glob(f".{name}*.tmp*"):
            with suppress(OSError):
                path.unlink()
