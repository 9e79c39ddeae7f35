"""What binds a record to its pictures: one hash over the bytes of all files, read once for as long as they stay as they are."""

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from karst_bench import files
from karst_bench.data.images import workers
from karst_bench.errors import UserError

SEALED = 64 + 1 + 16 + 1  # characters of a note


def images_sha256(found: Mapping[str, Path], cache_root: Path) -> str | None:
    """SHA-256 over the lists' paths and the hash of each file's bytes, in the paths' order; None where a file is missing.

    found: {path as the lists write it: file}. It is remembered under `cache_root` by the files' names, sizes and times.
    """
    ordered = sorted(found)
    note = cache_root / "images" / f"{files.stamp(found[path].absolute() for path in ordered)[:32]}.txt"
    with suppress(OSError, UnicodeDecodeError):
        known = note.read_text(encoding="ascii")[:SEALED]
        if known == _sealed(known[:64]):
            return known[:64]
    try:
        with ThreadPoolExecutor(workers()) as pool:
            hashes = list(pool.map(files.sha256, (found[path] for path in ordered)))
    except (OSError, ValueError):
        return None  # whoever opens that split says which, and on which line
    text = "".join(f"{path} {value}\n" for path, value in zip(ordered, hashes, strict=True))
    whole = hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()
    with suppress(UserError):
        files.write(note, _sealed(whole).encode())
    return whole


def _sealed(value: str) -> str:
    """What a note holds: the hash, and what a flipped bit in either does not fit."""
    return f"{value} {hashlib.sha256(value.encode()).hexdigest()[:16]}\n"
