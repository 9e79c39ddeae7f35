"""One run, from settings to record: the whole story on one screen."""

import logging
from collections.abc import Sequence

import torch
from msgspec import to_builtins

from karst_bench import stopping
from karst_bench.config.settings import Settings
from karst_bench.engine.callbacks import Callbacks
from karst_bench.engine.outcome import DivergedError
from karst_bench.errors import BusyError, UserError
from karst_bench.records import forced
from karst_bench.records.facts import RunFailure
from karst_bench.records.identity import cell_key
from karst_bench.records.lease import Leases
from karst_bench.records.record import FailedRun, RunRecord
from karst_bench.records.store import Store
from karst_bench.run.aside import Aside
from karst_bench.run.logs import run_log
from karst_bench.run.lookup import recall, remember, result_line, standing_record
from karst_bench.run.prepare import PreparedRun, crowded, prepare, slow_bf16, use_threads
from karst_bench.run.recording import header_of, write_record
from karst_bench.run.stages import resumed
from karst_bench.run.training import train_and_score
from karst_bench.trackers import client

log = logging.getLogger(__name__)


def run(settings: Settings, *, watchers: Sequence[Callbacks] = ()) -> RunRecord:
    """Trains and evaluates what the settings say and returns its record; a finished run is read, not repeated.

    watchers see every epoch and every look at a split, and may raise to end the run.
    Raises: UserError for bad input, before anything is computed; Stopped (a KeyboardInterrupt) on SIGTERM or Ctrl-C, with
    what was trained on disk; BusyError where another process has the cell.
    """
    store = Store(settings.paths.results, settings.suite)
    return recall(settings, store) or start(settings, watchers=watchers)


def start(settings: Settings, *, watchers: Sequence[Callbacks] = (), alike: int = 1) -> RunRecord:
    """As `run`, for who has recalled already and found nothing. alike: runs of this process that one compilation serves."""
    with stopping.listening():
        stopping.safe_point()
        store = Store(settings.paths.results, settings.suite)
        store.check_writable()
        threads, prepared = _prepared(settings, alike)
        if (record := standing_record(prepared, store)) is not None:
            return record
        with stopping.deferred():
            return _leased(prepared, store, threads, watchers)


def _prepared(settings: Settings, alike: int) -> tuple[int, PreparedRun]:
    """(how many threads there are, the parts of the run)."""
    threads = use_threads(settings.threads)
    prepared = prepare(settings, alike=alike)
    if slow_bf16(settings.precision, prepared.device):
        log.warning("this CPU has no bf16 arithmetic; precision=fp32, or precision=auto, is several times faster here")
    if crowded(prepared.device, threads):
        log.info("other programs keep this machine busy; threads=1 is likely to be faster than %d", threads)
    remember(settings, prepared)
    return threads, prepared


def _leased(prepared: PreparedRun, store: Store, threads: int, watchers: Sequence[Callbacks]) -> RunRecord:
    """The run as the only one of its cell."""
    settings = prepared.settings
    lease = Leases(store.root, settings.lease_s).acquire(prepared.id, note=cell_key(settings.as_config()))
    if lease is None:
        raise BusyError(f"{prepared.title}: another process is running this cell ({prepared.id})")
    with lease, run_log(settings.paths.results, settings.suite, prepared.id):
        store.check_writable()  # writing beside it, a client of a file server forgets that it saw no record there
        if (record := standing_record(prepared, store)) is not None:  # its last holder may have finished a moment ago
            return record
        store = store.under(lease)
        store.clear_temporaries(prepared.id)
        if settings.force:
            store = forced.begin(store, prepared.id)
        for remark in prepared.remarks:
            log.warning("%s: %s", prepared.title, remark)
        record = _tracked(prepared, store, threads, watchers)
        log.info("%s", Aside().of("the line of the result", lambda: result_line(prepared, record, store), f"record {record.id}"))
    return record


def _tracked(prepared: PreparedRun, store: Store, threads: int, watchers: Sequence[Callbacks]) -> RunRecord:
    """Trains under the trackers; whatever happens to them, the record is written."""
    trackers = client.build_trackers(prepared.settings.tracker)
    resumes = store.checkpoint_path(prepared.id).exists()
    trackers.start(prepared.settings.as_config(), prepared.id, resumed=resumes)
    record: RunRecord | FailedRun | None = None
    try:
        result = resumed(store, prepared.id, lambda state: train_and_score(prepared, store, state, trackers, watchers))
        record = done = write_record(prepared, threads, result, store)
        return done
    except UserError:
        raise
    except torch.OutOfMemoryError as error:  # as a full disk: no fault of the cell, and no failure on record
        raise UserError(f"{prepared.title}: {_no_room(error, prepared.settings)}") from error
    except Exception as error:
        record = FailedRun(**header_of(prepared, threads), error=RunFailure.of(error))
        kept = _keep_failure(store, record)
        if isinstance(error, DivergedError):
            raise UserError(f"{prepared.title}: {error}. {kept}") from error
        raise
    finally:
        adapter = store.adapter_path(prepared.id) if isinstance(record, RunRecord) and record.adapter else None
        trackers.finish(None if record is None else to_builtins(record), adapter)


def _no_room(error: torch.OutOfMemoryError, settings: Settings) -> str:
    """What torch says of a full GPU, without its advice on fragments, and what helps."""
    said = ". ".join(str(error).split(". ")[:3]).rstrip(".")
    less = "recompute=true speed=graph" if settings.speed == "compile" else "recompute=true"
    kept = "" if settings.recompute else f"{less} keeps less of it and is the same run; "
    return f"{said}; {kept}fewer runs may share the card, or recipe.batch={settings.recipe.batch} be smaller, which is another run"


def _keep_failure(store: Store, record: FailedRun) -> str:
    """Where the failed record lies, or why there is none: what failed matters more than that."""
    try:
        return f"Failed record: {store.fail(record)}"
    except UserError as error:
        log.warning("the failure is not on record: %s", error)
        return "Its failed record could not be written"
