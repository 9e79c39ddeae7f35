"""The run record: its shape, and a reader that refuses whatever is not one, with a reason.

A record is a plain dict with the sections that `validate` checks; this module needs the standard library only, so that
reports open thousands of records without importing torch. Records may come from strangers: nothing here evaluates,
unpickles or trusts a size.
"""

import json
import math
import re
import stat
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from karst_bench.errors import UserError

SCHEMA = 1
MAX_BYTES = 4 * 1024 * 1024  # a real record holds 5-60 kB
MAX_INT = 2**63 - 1
ID = re.compile(r"[0-9a-f]{16}")
SUITE = re.compile(r"[a-z][a-z0-9_-]{0,31}")
NAMED = ("method", "backbone", "dataset")  # config nodes that reports key on
DONE_SECTIONS = ("metrics", "curves", "counts", "seconds", "speed", "data", "weights", "provenance")
PERCENTS = (
    "test_top1_last_pct",
    "test_top1_peak_pct",
    "val_top1_last_pct",
    "val_top1_best_pct",
)
COUNTS = ("trainable_params", "head_params", "stored_bits", "active_params", "forward_macs")
CURVES = ("train_loss", "train_top1_pct", "lr")

Record = dict[str, Any]


class RecordError(UserError):
    """The text or mapping is not a record of this version; the message says why."""


def now() -> str:
    """The time of a record: ISO-8601, UTC, seconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _need(condition: bool, reason: str) -> None:
    if not condition:
        raise RecordError(reason)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _finite(value: Any, where: str = "record", depth: int = 0) -> None:
    """Every number finite and within 64 bits, every key a string: what any JSON reader gives back unchanged."""
    _need(depth < 32, f"{where} is nested more than 32 levels deep")
    if isinstance(value, Mapping):
        for key, item in value.items():
            _need(isinstance(key, str), f"{where}: key {key!r} is not a string")
            _finite(item, f"{where}.{key[:60]}", depth + 1)
    elif isinstance(value, list | tuple):
        for position, item in enumerate(value):
            _finite(item, f"{where}[{position}]", depth + 1)
    elif isinstance(value, float):
        _need(math.isfinite(value), f"{where} is {value}, not a finite number")
    elif isinstance(value, int):
        _need(abs(value) <= MAX_INT, f"{where} does not fit 64 bits")
    else:
        _need(value is None or isinstance(value, str), f"{where} is a {type(value).__name__}, which JSON does not hold")


def _check_config(config: Any) -> None:
    _need(isinstance(config, Mapping), "config is not a mapping")
    for node in NAMED:
        name = config[node].get("name") if isinstance(config.get(node), Mapping) else None
        _need(isinstance(name, str) and 0 < len(name) <= 200, f"config.{node}.name is missing")
    seed = config.get("seed")
    _need(isinstance(seed, int) and not isinstance(seed, bool), f"config.seed is {seed!r}, not an integer")
    suite = config.get("suite")
    _need(isinstance(suite, str) and SUITE.fullmatch(suite) is not None, f"config.suite is {str(suite)[:40]!r}")


def _check_metrics(metrics: Mapping[str, Any]) -> None:
    for key in PERCENTS:
        value = metrics.get(key)
        _need(value is None or (_number(value) and 0 <= value <= 100), f"metrics.{key} is {value!r}, not 0 to 100")
    _need(any(metrics.get(key) is not None for key in PERCENTS), "metrics hold no accuracy")
    for key in ("test_n", "val_n", "train_n", "best_epoch"):
        value = metrics.get(key)
        _need(value is None or (isinstance(value, int) and value >= 0), f"metrics.{key} is {value!r}, not a count")


def _check_curves(curves: Mapping[str, Any]) -> None:
    epochs = curves.get("epoch", [])
    _need(isinstance(epochs, list), "curves.epoch is not a list")
    for key in CURVES:
        values = curves.get(key, [])
        _need(isinstance(values, list) and all(map(_number, values)), f"curves.{key} is not a list of numbers")
        _need(len(values) in (0, len(epochs)), f"curves.{key} has {len(values)} values for {len(epochs)} epochs")
    checks = curves.get("checks", [])
    _need(isinstance(checks, list) and all(isinstance(c, Mapping) for c in checks), "curves.checks is not a list")


def _check_numbers(section: Mapping[str, Any], name: str, whole: bool) -> None:
    for key, value in section.items():
        fits = value is None or (_number(value) and value >= 0 and (not whole or isinstance(value, int)))
        _need(fits, f"{name}.{key[:60]} is {str(value)[:40]!r}, not {'a count' if whole else 'a number >= 0'}")


def validate(record: Any) -> Record:
    """Return `record` when it is one of this version; else raise RecordError naming the first thing that is not."""
    _need(isinstance(record, dict), f"a record is a JSON object, this is a {type(record).__name__}")
    _need(record.get("schema") == SCHEMA, f"schema version {str(record.get('schema'))[:40]!r}; this reads {SCHEMA}")
    _finite(record)
    run_id = record.get("id")
    _need(isinstance(run_id, str) and ID.fullmatch(run_id) is not None, f"id {str(run_id)[:40]!r} is not 16 hex digits")
    _need(record.get("status") in ("done", "failed"), f"status {str(record.get('status'))[:40]!r}")
    try:
        datetime.fromisoformat(str(record.get("created")))
    except ValueError:
        raise RecordError(f"created {str(record.get('created'))[:40]!r} is not an ISO-8601 time") from None
    _check_config(record.get("config"))
    notes = record.get("notes", [])
    _need(isinstance(notes, list) and all(isinstance(n, str) for n in notes), "notes is not a list of strings")
    if record["status"] == "failed":
        error = record.get("error")
        _need(isinstance(error, Mapping) and isinstance(error.get("type"), str), "a failed record without its error")
        return record
    for section in DONE_SECTIONS:
        _need(isinstance(record.get(section), Mapping), f"{section} is missing")
    _check_metrics(record["metrics"])
    _check_curves(record["curves"])
    _check_numbers({key: record["counts"].get(key) for key in COUNTS}, "counts", whole=True)
    _check_numbers(record["seconds"], "seconds", whole=False)
    _check_numbers(record["speed"], "speed", whole=False)
    _check_numbers({"peak_bytes": record.get("peak_bytes")}, "record", whole=True)
    return record


def plain(value: Any) -> Any:
    """The same value with null for each NaN and infinity, for the curves of a run that failed by one."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def dumps(record: Record) -> str:
    """The text of a checked record: keys sorted, one space of indent, no NaN."""
    return json.dumps(validate(record), indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"


def _refuse_constant(name: str) -> Any:
    raise RecordError(f"holds {name}, which is no JSON number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    _need(len(found) == len(pairs), "names one key twice")
    return found


def _bounded(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    """Refuse a digit string before it is converted: 10^400 as an integer is legal JSON and no measurement."""

    def convert(text: str) -> Any:
        _need(len(text) <= 40, f"holds a number of {len(text)} characters")
        return kind(text)

    return convert


def loads(data: bytes | str) -> Record:
    """Parse and check one record. Raises RecordError with the reason: not JSON, too large, NaN, foreign version, ..."""
    raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    _need(len(raw) <= MAX_BYTES, f"{len(raw)} bytes; a record holds at most {MAX_BYTES}")
    try:
        parsed = json.loads(
            raw.decode("utf-8"),
            parse_constant=_refuse_constant,
            parse_int=_bounded(int),
            parse_float=_bounded(float),
            object_pairs_hook=_unique,
        )
    except UnicodeDecodeError as error:
        raise RecordError(f"not UTF-8 text (byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise RecordError(f"not whole JSON: {error.msg} at line {error.lineno}") from None
    except RecursionError:
        raise RecordError("nested too deeply") from None
    return validate(parsed)


def load(path: Path) -> Record:
    """Read one record file; its name must be its id. Raises RecordError whose message starts with the file's name."""
    try:
        info = path.stat()
        _need(stat.S_ISREG(info.st_mode), "not a regular file")
        _need(info.st_size <= MAX_BYTES, f"{info.st_size} bytes; a record holds at most {MAX_BYTES}")
        with path.open("rb") as file:
            record = loads(file.read(MAX_BYTES + 1))
        _need(path.name.split(".")[0] == record["id"], f"holds record {record['id']}, not the one it is named after")
    except RecordError as error:
        raise RecordError(f"{path.name}: {error}") from None
    except OSError as error:
        raise RecordError(f"{path.name}: cannot be read ({error.strerror})") from None
    return record
