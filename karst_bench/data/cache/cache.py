"""Decode once: the pixels of a split as one memory-mapped uint8 file, keyed by all that can change them.

An entry is a folder <paths.cache>/<set>/<split>-<key>/ of pixels.npy (n, 3, H, W), crc32.npy (n,), aspects.npy (n,)
and meta.json. The key hashes the list, the size and time of every file, the transform and the decoder's version. An
entry is built beside its place and renamed into it, under a lock; it is checked when opened, and rebuilt if damaged.
"""

import contextlib
import hashlib
import json
import logging
import shutil
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from karst_bench import files
from karst_bench.data.cache.splits import CachedSplit, StreamSplit
from karst_bench.data.cache.writer import MixedSizesError, write_entry
from karst_bench.data.decode import DECODER
from karst_bench.data.images import Source, decode_all
from karst_bench.data.resize import Resize
from karst_bench.data.task import ArraySplit, Split

LAYOUT = 1
CHECK_AT_ONCE = 512 * 2**20  # bytes that are checked on opening (0.25 s); larger entries are checked as they are read
KEEP_IN_MEMORY = 2 * 2**30  # bytes that are held in memory where the disk cannot take them
SPARE = 2**30  # bytes of disk left alone

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cache:
    """Where decoded splits are kept. root: paths.cache; limit: bytes that all entries may take."""

    root: Path
    limit: float

    def open(self, source: Source, resize: Resize, *, native: bool) -> Split:
        """The split, decoded at most once.

        native: keep the images at their own size where that is smaller and the same for all, and apply `resize` when they
        are read (test sets). Falls back to memory, or to decoding as it is read, with one warning, where the disk
        is full, read-only, or the limit is reached. Raises: BadImageError for the first image that cannot be decoded.
        """
        entry = self.root / source.folder / f"{source.name}-{_key(source, resize)}"
        found = self._existing(entry, source, resize)
        if found is not None:
            return found
        if native and _smaller(source, resize):
            with contextlib.suppress(MixedSizesError):
                return self._make(entry, source, resize, kept=None, needed=len(source) * 3 * _pixels(source))
        return self._make(entry, source, resize, kept=resize, needed=len(source) * 3 * resize.side**2)

    def _make(self, entry: Path, source: Source, resize: Resize, *, kept: Resize | None, needed: int) -> Split:
        refusal = self._refusal(needed)
        if refusal is None:
            try:
                with files.locked(entry.parent / ".lock"):
                    return self._existing(entry, source, resize) or self._build(entry, source, resize, kept, needed)
            except OSError as error:
                refusal = f"{self.root} cannot take it ({error.strerror or error})"
        return self._without(source, resize, refusal)

    def _build(self, entry: Path, source: Source, resize: Resize, kept: Resize | None, needed: int) -> Split:
        size = f"{needed / 1e6:.1f} MB" if needed < 1e9 else f"{needed / 1e9:.1f} GB"
        log.info("%s %s: decoding %d images once, %s in %s", source.folder, source.name, len(source), size, entry.parent)
        write_entry(entry, source, kept, LAYOUT)
        made = self._existing(entry, source, resize)
        if made is None:
            raise OSError(f"{entry} was written, but does not read back; the disk may be failing")
        return made

    def _existing(self, entry: Path, source: Source, resize: Resize) -> Split | None:
        if not entry.is_dir():
            return None
        try:
            return _open_entry(entry, source, resize)
        except Exception as error:  # whatever bytes of others make JSON and numpy raise
            log.warning("%s is damaged (%s); decoding again", entry, error)
            shutil.rmtree(entry, ignore_errors=True)
            return None

    def _refusal(self, needed: int) -> str | None:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self.root).free
        except OSError as error:
            return f"{self.root} cannot be written ({error.strerror})"
        if needed + SPARE > free:
            return f"it needs {needed / 1e9:.1f} GB and {self.root} has {free / 1e9:.1f} GB free"
        taken = sum(path.stat().st_size for path in self.root.glob("*/*/pixels.npy"))
        if taken + needed > self.limit:
            return f"{self.root} holds {taken / 1e9:.1f} of the {self.limit / 1e9:.0f} GB that cache_gb= allows"
        return None

    def _without(self, source: Source, resize: Resize, why: str) -> Split:
        remedy = "free some space, raise cache_gb=, or set paths.cache to another disk"
        if len(source) * 3 * resize.side**2 <= KEEP_IN_MEMORY:
            log.warning("%s %s: held in memory, not cached: %s; %s", source.folder, source.name, why, remedy)
            everything = decode_all(source, resize)
            return ArraySplit(source.name, everything.images, source.labels, everything.aspects)
        log.warning("%s %s: decoded again whenever it is read, not cached: %s; %s", source.folder, source.name, why, remedy)
        return StreamSplit(source, resize)


def _key(source: Source, resize: Resize) -> str:
    return hashlib.sha256(f"{LAYOUT}|{DECODER}|{resize.spec}|{source.fingerprint()}".encode()).hexdigest()[:16]


def _pixels(source: Source) -> int:
    _, height, width = source.load(0).shape
    return height * width


def _smaller(source: Source, resize: Resize) -> bool:
    return 2 * _pixels(source) <= resize.side**2


def _open_entry(entry: Path, source: Source, resize: Resize) -> CachedSplit:
    """Nothing of a size that the entry claims is held before the file is seen to have it. Raises whatever is wrong with it."""
    meta = json.loads((entry / "meta.json").read_text(encoding="utf-8"))
    if meta["layout"] != LAYOUT or meta["n"] != len(source):
        raise ValueError(f"layout {meta['layout']} with {meta['n']} images, expected {LAYOUT} with {len(source)}")
    crcs, aspects = _column(entry / "crc32.npy", np.uint32, len(source)), _column(entry / "aspects.npy", np.float32, len(source))
    if zlib.crc32(crcs.tobytes() + aspects.tobytes()) != meta["crc32"]:
        raise ValueError("its checksums do not fit")
    pixels = np.load(entry / "pixels.npy", mmap_mode="r", allow_pickle=False)
    if pixels.dtype != np.uint8 or list(pixels.shape) != meta["shape"]:
        raise ValueError(f"pixels {pixels.dtype} {pixels.shape}, expected uint8 {meta['shape']}")
    native = pixels.shape[2:] != (resize.side, resize.side)
    if len(pixels) != len(source) or meta["native"] is not native:
        raise ValueError(f"pixels {pixels.shape}, native={meta['native']}, for {len(source)} images of side {resize.side}")
    split = CachedSplit(source, pixels, crcs, torch.from_numpy(aspects), resize if native else None, entry)
    if pixels.nbytes <= CHECK_AT_ONCE:
        split.check(range(len(source)))
    return split


def _column(path: Path, kind: type[np.generic], n: int) -> np.ndarray:
    found = np.load(path, mmap_mode="r", allow_pickle=False)
    if found.dtype != kind or found.shape != (n,):
        raise ValueError(f"{path.name} holds {found.dtype} {found.shape}, expected {np.dtype(kind)} ({n},)")
    return np.array(found)
