"""Finding a finished run: from its configuration alone where its files are as they were, else from what was read.

What a configuration's weights and lists turned out to be is remembered under paths.cache by the configuration's key, with
size and time of every file it came from. Nothing heavy is imported here: a finished cell is told in a second.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from karst_bench import files
from karst_bench.config.settings import Settings
from karst_bench.errors import UserError
from karst_bench.records import forced
from karst_bench.records.identity import cell_key
from karst_bench.records.record import RunRecord
from karst_bench.records.store import Store

if TYPE_CHECKING:
    from karst_bench.run.prepare import PreparedRun

log = logging.getLogger(__name__)
ATTEMPTS = 2  # a failed cell is tried once more, then left to a person


def recall(settings: Settings, store: Store) -> RunRecord | None:
    """The record of a finished run whose files have not changed since, without reading them; None where that is not known."""
    try:
        known = json.loads(memory_path(settings).read_text(encoding="utf-8"))
        if any(_stamp(Path(name)) != stamp for name, stamp in known["files"].items()) or not _same_images(settings, known):
            return None
        run_id = str(known["id"])
        record = None if settings.force and not forced.finished(store, run_id) else store.find(run_id)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    if record is not None:
        _tidy(store, record.id)
        log.info("%s", _done_already(settings.title, record, store))
    return record


def remember(settings: Settings, prepared: "PreparedRun") -> None:
    """Notes which run this configuration is, as long as its files stay as they are. Raises nothing: it is a convenience."""
    named = [*prepared.task.files, *([prepared.weights] if prepared.weights else [])]
    stamps = {str(path.resolve()): _stamp(path) for path in named}
    if not named or None in stamps.values():
        return
    try:
        found = {"id": prepared.id, "files": stamps, "images": _noted_images(settings, prepared.task.images)}
        files.write(memory_path(settings), json.dumps(found, indent=1).encode(), once=False)
    except UserError as error:
        log.debug("not remembered: %s", error)


def standing_record(prepared: "PreparedRun", store: Store) -> RunRecord | None:
    """The record of a finished cell. Raises: UserError where the cell has failed too often to be tried again unasked."""
    if prepared.settings.force and not forced.finished(store, prepared.id):
        return None
    if (record := store.find(prepared.id)) is not None:
        _refuse_other_images(prepared, record)
        _tidy(store, record.id)
        log.info("%s", _done_already(prepared.title, record, store))
        return record
    if store.failures(prepared.id) >= ATTEMPTS:
        failed = store.path(prepared.id, "failed")
        raise UserError(f"{prepared.title}: failed {ATTEMPTS} times, see {failed}; force=true tries it again")
    return None


def _tidy(store: Store, run_id: str) -> None:
    """Removes or moves what a process left that was killed with its record just written."""
    store.drop_checkpoints(run_id, of_forced=False)
    forced.settle(store, run_id)


def result_line(prepared: "PreparedRun", record: RunRecord, store: Store) -> str:
    """The line that ends a run: accuracy, size, time, where its record lies."""
    total_s = record.seconds.total_s or 0.0
    return (
        f"{prepared.title}: {accuracy_text(record)}; {record.counts.trainable_params:,} trained parameters, "
        f"{total_s:.1f} s; record {store.path(record.id)}"
    )


def accuracy_text(record: RunRecord) -> str:
    """`test top-1 71.2 %`."""
    split, value = record.metrics.accuracy()
    return f"{split} top-1 {value:.1f} %"


def _done_already(title: str, record: RunRecord, store: Store) -> str:
    return f"{title}: done already, {accuracy_text(record)}; record {store.path(record.id)} (force=true runs it again)"


def memory_path(settings: Settings) -> Path:
    """The note on this configuration: its cell, all that its data and backbone groups say, and the folders they lie in."""
    config = settings.as_config()
    groups = {key: config.get(key) for key in ("dataset", "backbone", "augment")}
    where = [str(path.resolve()) for path in (settings.paths.data, settings.paths.weights)]
    text = json.dumps([cell_key(config), groups, where], sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()[:24]
    return settings.paths.cache / "runs" / f"{key}.json"


def _noted_images(settings: Settings, images: Sequence[Path]) -> Any:
    """[a file with the names of all pictures, a hash over their sizes and times]; None where there are none."""
    if not images:
        return None
    names = "\n".join(str(path.absolute()) for path in images).encode(errors="surrogateescape")
    listed = settings.paths.cache / "images" / f"{hashlib.sha256(names).hexdigest()[:32]}.names"
    files.write(listed, names, once=True)
    return [listed.name, files.stamp(path.absolute() for path in images)]


def _same_images(settings: Settings, known: Any) -> bool:
    noted = known["images"]
    if noted is None:
        return True
    names = (settings.paths.cache / "images" / str(noted[0])).read_bytes().decode(errors="surrogateescape").split("\n")
    return files.stamp(map(Path, names)) == str(noted[1])


def _refuse_other_images(prepared: "PreparedRun", record: RunRecord) -> None:
    """The id of a set with published lists goes by these; other pictures under them are told, not taken for the same run."""
    there, here = record.data.images_sha256, prepared.task.images_sha256
    if not prepared.task.images_in_id and there and here and there != here:
        raise UserError(
            f"{prepared.title}: the record {record.id} is of other pictures under the same lists ({there[:12]}, now {here[:12]})."
            " Restore them, or run it on these with force=true, which replaces the record"
        )


def _stamp(path: Path) -> Any:
    try:
        found = path.stat()
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns]
