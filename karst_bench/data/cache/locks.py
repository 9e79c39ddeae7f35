"""A lock between processes that dies with its holder."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold `path` exclusively, waiting for whoever holds it; the file stays, so that all wait for the same one.

    File systems without locks go on unlocked: entries are renamed into place, so two builders only waste time.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
