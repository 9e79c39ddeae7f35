"""What `force` has begun and not finished, so that a stopped forced run or sweep goes on instead of beginning anew.

forced/runs/<suite>/<id>.json  a forced run under way: the number that the names of its files hold, the record it will replace
forced/commands/<key>/<id>     a cell that this command has finished: the SHA-256 of the record that it wrote

A command is known by its words. Its folder goes when all its cells are done, so that the same words force anew. The worker
processes of a launcher find it by an environment variable. No clock is asked.
"""

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from karst_bench import files
from karst_bench.records.store import Store

VARIABLE = "KARST_BENCH_FORCED"
WORDS = "words.json"
MOST = 10**6  # forced runs of a cell; a larger number is none that was written here
log = logging.getLogger(__name__)


@contextmanager
def forced_command(root: Path, words: Sequence[str]) -> Iterator[None]:
    """Within, what a forced cell of these words finishes is noted; whatever ends the block by raising leaves the notes."""
    key = hashlib.sha256(json.dumps(sorted(words)).encode()).hexdigest()[:16]
    folder = root / "forced" / "commands" / key
    if (done := _done(folder)) and not (folder / WORDS).exists():
        files.remove_folder(folder)  # nobody began it: what is left of one that was removed
        done = 0
    if done:
        began = time.strftime("%Y-%m-%d %H:%M", time.localtime((folder / WORDS).stat().st_mtime))
        log.info("force=true goes on with what these words began on %s, %d done since; remove %s to run all again",
                 began, done, folder)  # fmt: skip
    elif not (folder / WORDS).exists():
        files.write(folder / WORDS, json.dumps(sorted(words)).encode())
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = key
    try:
        yield
    finally:
        os.environ.pop(VARIABLE)
        if before is not None:
            os.environ[VARIABLE] = before
    files.remove_folder(folder)  # half of it would be a command that goes on


def finished(store: Store, run_id: str) -> bool:
    """Whether this process's forced command, by whichever worker, has run that cell already."""
    folder = _folder(store)
    if folder is None or not store.path(run_id).exists():
        return False
    if not folder.exists():  # another worker saw that all cells are done
        return True
    try:
        return (folder / run_id).read_text() == files.sha256(store.path(run_id))
    except OSError:
        return False


def begin(store: Store, run_id: str) -> Store:
    """The store of a forced run, which writes beside the standing record; of one that was stopped, if there is one.

    For the holder of the cell's lease. The cell's failures are forgotten when it begins.
    """
    settle(store, run_id)
    note, standing = _note(store, run_id), store.path(run_id)
    over = files.sha256(standing) if standing.exists() else None
    try:
        begun = json.loads(note.read_text())
        number = int(begun["number"])
        goes_on = 0 < number < MOST
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        goes_on = False
    if goes_on:
        log.info("force=true goes on with the forced run that was stopped")
    else:
        store.retire_failure(run_id)
        number = store.next_number(run_id)
        files.write(note, json.dumps({"number": number, "over": over}).encode())
    return store.for_attempt(number)


def will_write(store: Store, run_id: str, image: bytes) -> None:
    """Note that the record of these bytes is this command's; said before it is written, true once it is."""
    folder = _folder(store)
    if folder is not None and folder.exists():
        files.write(folder / run_id, hashlib.sha256(image).hexdigest().encode())


def settle(store: Store, run_id: str) -> None:
    """Does what a forced run had left to do that was killed with its record just written: the files of the record that it
    replaced follow that one, its checkpoints go. A forced run under way is left alone, one that began meanwhile too."""
    note, standing = _note(store, run_id), store.path(run_id)
    with suppress(OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        begun = json.loads(text := note.read_text())
        number = int(begun["number"])
        if 0 < number < MOST and standing.exists() and begun["over"] != files.sha256(standing):
            store.for_attempt(number).follow(run_id)
            if note.read_text() == text:
                end(store, run_id)


def end(store: Store, run_id: str) -> None:
    """The forced run of that cell is over; its next one begins anew."""
    with suppress(OSError):
        _note(store, run_id).unlink()


def _note(store: Store, run_id: str) -> Path:
    return store.root / "forced" / "runs" / store.suite / f"{run_id}.json"


def _folder(store: Store) -> Path | None:
    key = os.environ.get(VARIABLE)
    return store.root / "forced" / "commands" / key if key else None


def _done(folder: Path) -> int:
    try:
        return sum(path.name != WORDS and not path.name.startswith(".") for path in folder.iterdir())
    except OSError:
        return 0
