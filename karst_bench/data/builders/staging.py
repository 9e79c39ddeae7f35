"""Writing a set's folder: beside its place, resumable picture by picture, and put in place whole."""

import hashlib
import io
import json
import logging
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from PIL import Image

from karst_bench import files
from karst_bench.data.images import AHEAD, workers
from karst_bench.data.sources.layouts import own_set_hint
from karst_bench.data.sources.manifest import SUMS
from karst_bench.errors import UserError

log = logging.getLogger(__name__)
PLAN, JOURNAL = "plan.json", "journal.txt"
SUFFIXES = {"png": ".png", "jpeg75": ".jpg"}


def encode(image: Image.Image, encoding: str) -> bytes:
    """The picture as a file: png keeps every pixel; jpeg75 is what the distributed folders hold (Pillow's default)."""
    out = io.BytesIO()
    if encoding == "png":
        image.save(out, "PNG", compress_level=4)
    else:
        image.convert("RGB").save(out, "JPEG", quality=75)
    return out.getvalue()


class OccupiedError(UserError):
    """What was to be built is there already: by another process meanwhile, or as something else."""


def check_free(home: Path) -> None:
    """Raises: OccupiedError where `home` is there with something in it, which a build would not replace."""
    if home.exists() and (not home.is_dir() or any(home.iterdir())):
        how = own_set_hint(home) or "look at what it holds"
        raise OccupiedError(f"{home}: is there, but is no finished set; {how}, or move it away")


class Staging:
    """A folder that is being filled. home: where it will be. files: {relative path: SHA-256} of what it holds.

    Every picture is written down in a journal with its hash after it was written, so that a run that was broken off
    goes on with what is there and whole.
    """

    def __init__(self, home: Path, folder: Path) -> None:
        self.home = home
        self.folder = folder
        self.files: dict[str, str] = {}

    def write(self, name: str, data: bytes) -> None:
        """One picture, and its line in the journal."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        self._note(name, hashlib.sha256(data).hexdigest())

    def copy(self, name: str, original: str) -> None:
        """A second name for a picture that is there (a link, or a copy where the file system has none)."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        try:
            os.link(self.folder / original, path)
        except OSError:
            shutil.copyfile(self.folder / original, path)
        self._note(name, self.files[original])

    def write_all(self, jobs: Iterable[tuple[str, Callable[[], bytes]]], total: int) -> None:
        """Pictures made by several threads, a few ahead of what is written. jobs: (name, maker of its bytes)."""
        ahead: deque[tuple[str, Future[bytes]]] = deque()
        done, step = 0, max(1, total // 10)

        def finish() -> None:
            nonlocal done
            name, made = ahead.popleft()
            self.write(name, made.result())
            done += 1
            if done % step == 0 and total > 1000:
                log.info("%s: %d of %d pictures", self.home, done, total)

        with ThreadPoolExecutor(workers()) as pool:
            try:
                for name, maker in jobs:
                    ahead.append((name, pool.submit(maker)))
                    if len(ahead) >= AHEAD * workers():
                        finish()
                while ahead:
                    finish()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def finish(self) -> str:
        """Write files.sha256 in the form that sha256sum reads; its own hash."""
        text = "".join(f"{digest}  {name}\n" for name, digest in sorted(self.files.items()))
        files.write(self.folder / SUMS, text.encode(), setting="root")
        return hashlib.sha256(text.encode()).hexdigest()

    def _note(self, name: str, digest: str) -> None:
        with (self.folder / JOURNAL).open("a", encoding="utf-8") as journal:
            journal.write(f"{digest}  {name}\n")
        self.files[name] = digest

    def resume(self) -> None:
        """Take over what a broken-off run left, where each file has the hash that its journal tells."""
        with suppress(OSError):
            for line in (self.folder / JOURNAL).read_text("utf-8", "replace").splitlines():
                digest, _, name = line.partition("  ")
                with suppress(OSError, ValueError):
                    if name and files.sha256(self.folder / name) == digest:
                        self.files[name] = digest


@contextmanager
def staging(home: Path, plan: Mapping[str, object]) -> Iterator[Staging]:
    """A folder to fill, which becomes `home` when the block ends well. plan: what is being made, as JSON values.

    Where a broken-off run with the same plan left something, it is gone on with; what another plan left is removed.
    Two runs do not fill one folder: the second waits. Raises: OccupiedError where `home` is there by then; UserError
    where the disk is full or not writable.
    """
    folder = home.with_name(f".{home.name}.building")
    text = json.dumps(plan, sort_keys=True)
    try:
        with files.locked(home.with_name(f".{home.name}.lock")):
            check_free(home)
            if folder.exists() and _plan(folder) != text:
                shutil.rmtree(folder)
            folder.mkdir(parents=True, exist_ok=True)
            files.write(folder / PLAN, text.encode(), setting="root")
            found = Staging(home, folder)
            found.resume()
            yield found
            for name in (JOURNAL, PLAN):
                (folder / name).unlink(missing_ok=True)
            shutil.rmtree(folder / "scratch", ignore_errors=True)
            folder.rename(home)
            files.sync_folder(home.parent)
    except OSError as error:
        raise files.refusal(home, error, setting="root") from error


def _plan(folder: Path) -> str:
    try:
        return (folder / PLAN).read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def write_lists(folder: Path, lists: Mapping[str, Sequence[tuple[str, int]]]) -> None:
    """<split>.txt for each split: lines of "<path> <label>"."""
    for split, rows in lists.items():
        text = "".join(f"{path} {label}\n" for path, label in rows)
        files.write(folder / f"{split}.txt", text.encode(), setting="root")


def known_encoding(encoding: str) -> str:
    """The suffix that goes with png or jpeg75. Raises: UserError for another encoding."""
    if encoding not in SUFFIXES:
        raise UserError(f"encoding={encoding}: choose png (every pixel kept) or jpeg75 (as the distributed folders)")
    return SUFFIXES[encoding]
