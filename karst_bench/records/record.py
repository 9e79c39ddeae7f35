"""The types of a record: what one run was, stood on and gave. One JSON file each, read without torch.

    header = {"id": ..., "config": {...}, "data": DataFacts(...), "weights": WeightsFacts(...), "provenance": collect(...)}
    RunRecord(**header, metrics=Metrics(...), curves=Curves(...), counts=Counts(...), seconds=Seconds(...), speed=Speed(...))
    FailedRun(**header, error=RunFailure.of(error))

All fields are named and frozen (`msgspec.structs.replace` makes a changed copy); what is not known is absent from the
file. Records may come from strangers: `loads` refuses whatever is not one, with the place and the reason, and nothing
here evaluates, unpickles or trusts a size. A digest over the whole file betrays a later change. A new fact is a new field
with a default; SCHEMA and a migration are for a layout that older files do not fit.
"""

import json
import re
import stat
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import msgspec
from msgspec import field

from karst_bench.names import is_plain
from karst_bench.records import strict_json
from karst_bench.records.diagnostics import Diagnostics
from karst_bench.records.facts import (
    Count,
    Counts,
    Curves,
    DataFacts,
    Facts,
    Metrics,
    Provenance,
    RunFailure,
    Seconds,
    Speed,
    WeightsFacts,
)
from karst_bench.records.migrations import SCHEMA, migrate
from karst_bench.records.strict_json import MAX_BYTES, RecordError, need, reason

ID = re.compile(r"[0-9a-f]{16}")
SUITE = re.compile(r"[a-z][a-z0-9_-]{0,31}")
NAMED = ("method", "backbone", "dataset")  # config nodes that reports key on


def now() -> str:
    """The time of a record: ISO-8601, UTC, seconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class RunHeader(Facts, frozen=True, kw_only=True):
    """What a record says before any result. config: resolved, without paths; id_schema: whose rule made the id."""

    id: str
    config: dict[str, Any]
    data: DataFacts
    weights: WeightsFacts
    provenance: Provenance
    notes: tuple[str, ...] = ()
    # factories, so that omit_defaults never leaves these out
    created: str = field(default_factory=now)
    schema: int = field(default_factory=lambda: SCHEMA)
    undigested: bool = False  # read from a file of schema 1 or 2 that had no digest
    id_schema: int = field(default_factory=lambda: SCHEMA)


class RunRecord(RunHeader, frozen=True, kw_only=True, tag_field="status", tag="done"):
    """A finished run. adapter, artefact (of a scoring pre-pass), predictions (records/predictions.py): paths under the
    results folder; peak_bytes: of device memory, or resident on a CPU."""

    status: ClassVar[str] = "done"
    metrics: Metrics
    curves: Curves
    counts: Counts
    seconds: Seconds
    speed: Speed
    peak_bytes: Count | None = None
    adapter: str | None = None
    adapter_sha256: str | None = None
    artefact: str | None = None
    artefact_sha256: str | None = None
    predictions: str | None = None
    predictions_sha256: str | None = None
    diagnostics: Diagnostics | None = None

    @property
    def test_peak_pct(self) -> float | None:
        """The best of several looks at the test split; None where there was one alone, whatever an older record calls its best
        (a supernet is not looked at while it trains)."""
        looked = any(check.split == "test" for check in self.curves.checks)
        return self.metrics.test_top1_peak_pct if looked else None


class FailedRun(RunHeader, frozen=True, kw_only=True, tag_field="status", tag="failed"):
    """A run that ended in an error; attempts: how often the cell has failed since it last succeeded or was forced."""

    status: ClassVar[str] = "failed"
    error: RunFailure
    attempts: Count = 1


def _check(record: RunRecord | FailedRun) -> None:
    """What no single field shows."""
    need(ID.fullmatch(record.id) is not None, f"id {record.id[:40]!r} is not 16 hex digits")
    need(1 <= record.id_schema <= SCHEMA, f"id_schema is {record.id_schema}; this knows the rules 1 to {SCHEMA}")
    try:
        datetime.fromisoformat(record.created)
    except ValueError:
        raise RecordError(f"created {record.created[:40]!r} is not an ISO-8601 time") from None
    strict_json.check_plain(record.config, "config")
    _check_config(record.config)
    if isinstance(record, RunRecord):
        record.metrics.accuracy()
        for key in ("adapter", "artefact", "predictions"):
            path = getattr(record, key)
            inside = path is None or not {"..", "/"} & set(PurePosixPath(path).parts)
            need(inside, f"{key} {str(path)[:60]!r} leaves the results folder")
        epochs = len(record.curves.epoch)
        for key in ("train_loss", "train_top1_pct", "lr"):
            length = len(getattr(record.curves, key))
            need(length in (0, epochs), f"curves.{key} has {length} values for {epochs} epochs")


def _check_config(config: dict[str, Any]) -> None:
    for node in NAMED:
        name = config[node].get("name") if isinstance(config.get(node), dict) else None
        need(name is not None, f"config.{node}.name is missing")
        need(is_plain(name), f"config.{node}.name {str(name)[:60]!r} cannot be a name")
    seed, suite = config.get("seed"), config.get("suite")
    need(type(seed) is int, f"config.seed is {str(seed)[:40]!r}, not an integer")
    need(isinstance(suite, str) and SUITE.fullmatch(suite) is not None, f"config.suite is {str(suite)[:40]!r}")


def _typed(fields: dict[str, Any]) -> RunRecord | FailedRun:
    try:
        record: RunRecord | FailedRun = msgspec.convert(fields, RunRecord | FailedRun)
    except msgspec.ValidationError as error:
        raise RecordError(reason(error, fields)) from None
    _check(record)
    return record


def loads(data: bytes | str) -> RunRecord | FailedRun:
    """Parses and checks one record, of this schema or an earlier one.

    Raises: RecordError with the place and the reason, also where the file's digest does not fit or, since schema 3, is absent.
    The digest finds accidents and careless edits, it is no signature: whoever forges with care can make one.
    """
    parsed = strict_json.parse(data)
    fields = migrate(parsed)
    fields = {key: value for key, value in fields.items() if key != "digest"}
    record = _typed(fields)
    if "digest" in parsed:
        whole = strict_json.digest({key: value for key, value in parsed.items() if key != "digest"})
        need(parsed["digest"] == whole, "its digest does not fit: it was changed after it was written")
    else:
        need(parsed["schema"] < 3, "it has no digest; since schema 3 every record has one")
    return record


def dumps(record: RunRecord | FailedRun) -> str:
    """The text of a record: keys sorted, one space of indent. Raises: RecordError where `loads` would not read it back."""
    try:
        fields = msgspec.to_builtins(record)
    except TypeError as error:
        raise RecordError(f"record {record.id}: {error}, which JSON does not hold") from None
    strict_json.check_plain(fields, "record")
    fields["digest"] = strict_json.digest(fields)
    text = json.dumps(fields, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"
    loads(text)
    return text


def _read(path: Path) -> RunRecord | FailedRun:
    try:
        info = path.stat()
        need(stat.S_ISREG(info.st_mode), "not a regular file")
        need(info.st_size <= MAX_BYTES, f"{info.st_size} bytes; a record holds at most {MAX_BYTES}")
        with path.open("rb") as file:
            record = loads(file.read(MAX_BYTES + 1))
        need(path.name.split(".")[0] == record.id, f"holds record {record.id}, not the one it is named after")
    except RecordError as error:
        raise RecordError(f"{path.name}: {error}") from None
    except OSError as error:
        raise RecordError(f"{path.name}: cannot be read ({error.strerror})") from None
    return record


def load(path: Path) -> RunRecord:
    """Reads the file of a finished run; its name must be its id.

    Raises: RecordError, starting with the file's name, where it is none.
    """
    record = _read(path)
    if not isinstance(record, RunRecord):
        raise RecordError(f"{path.name}: status {record.status!r}, expected 'done'")
    return record


def load_failed(path: Path) -> FailedRun:
    """Reads the file of a failed run. Raises: as `load`."""
    record = _read(path)
    if not isinstance(record, FailedRun):
        raise RecordError(f"{path.name}: status {record.status!r}, expected 'failed'")
    return record
